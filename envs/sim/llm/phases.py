"""The life of every request in phases, read from the log of iterations."""

import numpy as np

from servegym.costmodels.native.jit import jit
from servegym.envs.sim.llm.log import IterationLog
from servegym.envs.sim.llm.simulate import Results

PHASES = ("waiting", "prefill", "decode", "waiting again", "moving")
"""What a request does. Waiting again: its work was lost or put off, by a preemption or a failure. Moving:
on its way to another replica, or there and not scheduled yet."""

WAITING, PREFILL, DECODE, AGAIN, MOVING = range(len(PHASES))

PHASE = np.dtype(
    [
        ("start_s", np.float64),
        ("end_s", np.float64),
        ("request", np.int32),
        ("replica", np.int32),  # where it is next scheduled, while it is not; -1: nowhere
        ("kind", np.int8),
    ],
    align=True,
)
"""One phase of one request: it ends where the next one begins."""


def phases_of(results: Results, log: IterationLog) -> np.ndarray:
    """PHASE (F,): by request, and in order of time from its arrival until it finishes or is cancelled.

    Of lost requests until their last iteration that counts. A request that runs stays in its phase while an
    iteration leaves it out. The replica of a wait is that of the iteration which ends it: where else it had
    waited before a failure is not in the log.
    """
    ended_s = np.fmax(results.finish_s, results.cancelled_s)
    served = results.arrival_s, ended_s, results.replica
    iterations, entries, preemptions = (
        part.view(np.recarray) for part in (log.iterations, log.entries, log.preemptions)
    )
    nothing = np.empty(0, PHASE).view(np.recarray)
    phases = np.empty(_write_phases(*served, iterations, entries, preemptions, nothing), PHASE)
    _write_phases(*served, iterations, entries, preemptions, phases.view(np.recarray))
    phases = phases[phases["end_s"] > phases["start_s"]]
    return phases[np.lexsort((phases["start_s"], phases["request"]))]


@jit
def _write_phases(
    arrival_s: np.ndarray,
    ended_s: np.ndarray,
    last_replica: np.ndarray,
    iterations: np.ndarray,
    entries: np.ndarray,
    preemptions: np.ndarray,
    phases: np.ndarray,
) -> int:
    """Writes the phases as far as there is room for them, and returns their number."""
    num_requests, num_phases, preemption = len(arrival_s), 0, 0
    current = np.full(num_requests, -1)  # its phase in an iteration
    replica, kind, computed = np.zeros((3, num_requests), np.int64)
    served_s, preempted_s = np.full((2, num_requests), np.nan)  # end of its last iteration; not served since
    for i in range(len(iterations)):
        iteration = iterations[i]
        while preemption < len(preemptions) and preemptions[preemption].time_s <= iteration.start_s:
            preempted_s[preemptions[preemption].request] = preemptions[preemption].time_s
            preemption += 1
        for e in range(iteration.first_entry, iteration.first_entry + iteration.num_entries):
            entry = entries[e]
            r = entry.request
            now = PREFILL if entry.is_prefill else DECODE
            again = not np.isnan(preempted_s[r]) or entry.computed < computed[r]
            moved = replica[r] != iteration.replica
            if current[r] == -1:
                gap, gap_s = WAITING, arrival_s[r]
            else:
                gap = AGAIN if again else MOVING if moved else now
                gap_s = served_s[r] if np.isnan(preempted_s[r]) else preempted_s[r]
            if gap != now:
                _end(phases, current[r], gap_s)
                num_phases = _begin(phases, num_phases, r, iteration.replica, gap, gap_s)
                _end(phases, num_phases - 1, iteration.start_s)
            if gap != now or kind[r] != now:
                if gap == now:
                    _end(phases, current[r], iteration.start_s)
                current[r] = num_phases
                num_phases = _begin(phases, num_phases, r, iteration.replica, now, iteration.start_s)
            replica[r], kind[r], computed[r] = iteration.replica, now, entry.computed + entry.tokens
            served_s[r], preempted_s[r] = iteration.end_s, np.nan
            _end(phases, current[r], iteration.end_s)
    while preemption < len(preemptions):
        preempted_s[preemptions[preemption].request] = preemptions[preemption].time_s
        preemption += 1
    for r in range(num_requests):  # what was never served after its last iteration
        if np.isnan(ended_s[r]):
            continue
        if current[r] == -1:
            gap, gap_s = WAITING, arrival_s[r]
        elif not np.isnan(preempted_s[r]):
            gap, gap_s = AGAIN, preempted_s[r]
        elif last_replica[r] != replica[r]:
            gap, gap_s = MOVING, served_s[r]
        else:
            _end(phases, current[r], ended_s[r])
            continue
        _end(phases, current[r], gap_s)
        num_phases = _begin(phases, num_phases, r, last_replica[r], gap, gap_s)
        _end(phases, num_phases - 1, ended_s[r])
    return num_phases


@jit
def _begin(phases: np.ndarray, at: int, request: int, replica: int, kind: int, start_s: float) -> int:
    if at < len(phases):
        phases[at].request = request
        phases[at].replica = replica
        phases[at].kind = kind
        phases[at].start_s = start_s
    return at + 1


@jit
def _end(phases: np.ndarray, at: int, end_s: float) -> None:
    if 0 <= at < len(phases):
        phases[at].end_s = end_s
