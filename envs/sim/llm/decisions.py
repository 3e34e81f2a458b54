"""What a caller does with replicas whose scheduler is `agent`: finds the decision due and carries it out.

Whether a decision is legal is for the caller to see to (decision_view.py has the mask).
"""

import numpy as np

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.llm.batch import admit, begin_batch, preempt
from servegym.envs.sim.llm.iteration import complete_iteration, start_batch
from servegym.envs.sim.llm.schedulers.agent import (
    decision_due,
    may_admit,
    may_run,
    put_together,
    start,
    unclaimed,
)
from servegym.envs.sim.llm.state import NOBODY, Fleet

SHARES = (0.0, 0.25, 0.5, 1.0)
"""Of the prefill budget, that an iteration may start with."""

VISIBLE = 32
"""Rows for the waiting requests, and as many for the running ones."""

NUM_ROWS = 2 * VISIBLE

NUM_CHOICES = NUM_ROWS + len(SHARES)
"""By number: to admit or preempt the request of a row, or to start the iteration with one of `SHARES`."""


@kernel
def decide(fleet: Fleet, replica_id: int, choice: int, row_ids: np.ndarray) -> None:
    """Carries out one choice; row_ids: int32 (NUM_ROWS,), the request of each row."""
    if choice < VISIBLE:
        # it takes blocks with its first tokens, when the iteration starts
        admit(fleet, replica_id, row_ids[choice], 0)
        fleet.replicas[replica_id].num_admitted += 1
    elif choice < NUM_ROWS:
        preempt(fleet, replica_id, row_ids[choice])
    else:
        run(fleet, replica_id, SHARES[choice - NUM_ROWS])


PREEMPT_BELOW = -0.5
"""The score of a running request below which it is preempted."""


@routine
def decide_by_scores(fleet: Fleet, replica_id: int, scores: np.ndarray, row_ids: np.ndarray) -> None:
    """Decides on a whole iteration and starts it.

    scores: float64 (NUM_ROWS + 1,) in -1 to 1, of each row and, from -1 for none to 1 for all, of the budget
    for prefills. Running rows below PREEMPT_BELOW are preempted where that is legal; then waiting rows are
    admitted, highest score first, until one is negative or does not fit. Where nobody would run the highest
    is admitted all the same; where the batch would be empty its prefills get the whole budget.
    """
    replica = fleet.replicas[replica_id]
    for row in range(VISIBLE, VISIBLE + min(VISIBLE, replica.num_running)):
        if scores[row] < PREEMPT_BELOW and replica.num_running > 1:
            preempt(fleet, replica_id, row_ids[row])
    last = np.inf
    last_row = -1
    for _ in range(VISIBLE):
        best = NOBODY
        for row in range(VISIBLE):
            if row_ids[row] == NOBODY:
                break
            behind = scores[row] < last or (scores[row] == last and row > last_row)
            if behind and (best == NOBODY or scores[row] > scores[best]):
                best = row
        if best == NOBODY or (scores[best] < 0 and replica.num_running > 0):
            break
        tokens, blocks = unclaimed(fleet, replica_id, 1.0)
        if not may_admit(fleet, replica_id, row_ids[best], tokens, blocks):
            break
        decide(fleet, replica_id, best, row_ids)
        last, last_row = scores[best], best
    share = 0.5 * (scores[NUM_ROWS] + 1.0)
    run(fleet, replica_id, share if may_run(fleet, replica_id, share) else 1.0)


@routine
def run(fleet: Fleet, replica_id: int, share: float) -> None:
    """Starts the iteration that was decided on."""
    begin_batch(fleet, replica_id)
    put_together(fleet, replica_id, share)
    start_batch(fleet, replica_id)


@routine
def next_decision(fleet: Fleet, first: int, count: int, arrival_s: float) -> int:
    """Takes `count` replicas from `first` on to the first decision that falls due before `arrival_s`.

    Returns the replica; NOBODY when none does: then all stand at the arrival, before the iterations that
    start at that instant.
    """
    while True:
        replica_id, earliest_s, rank = NOBODY, arrival_s, 1  # at one instant: ends 0, the arrival 1, starts 2
        for candidate in range(first, first + count):
            replica = fleet.replicas[candidate]
            if replica.num_unfinished == 0:
                continue
            own_rank = 0 if replica.in_flight else 2
            if replica.clock_s < earliest_s or (replica.clock_s == earliest_s and own_rank < rank):
                replica_id, earliest_s, rank = candidate, replica.clock_s, own_rank
        if replica_id == NOBODY:
            return NOBODY
        if rank == 0:
            complete_iteration(fleet, replica_id)
        elif decision_due(fleet, replica_id):
            return replica_id
        else:
            begin_batch(fleet, replica_id)
            start(fleet, replica_id)
            start_batch(fleet, replica_id)
