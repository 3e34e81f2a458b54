"""A replica stepped from outside, one iteration at a time, for what keeps time by another clock.

The fleet must have a log (log.py), so that no decodes are skipped. A replica must have been taken to the
instant at which it is looked at or changed: every iteration that ends by then is completed, every one that
starts before then is started.
"""

import math

import numpy as np

from servegym.costmodels.native.jit import jit
from servegym.envs.sim.llm.fleet import advance, submit_at, withdraw
from servegym.envs.sim.llm.state import DECODING, PAUSED, PREFILLING, Fleet
from servegym.envs.sim.llm.view import write_replica_row


@jit
def complete(fleet: Fleet, replica_id: int) -> None:
    """Ends the iteration in flight and leaves the replica between two iterations."""
    advance(fleet, replica_id, fleet.replicas[replica_id].clock_s)


@jit
def begin(fleet: Fleet, replica_id: int) -> bool:
    """Starts the next iteration of a replica between two; False where there is nothing to start."""
    replica = fleet.replicas[replica_id]
    advance(fleet, replica_id, np.nextafter(replica.clock_s, np.inf))
    return bool(replica.in_flight == 1)


@jit
def enter(fleet: Fleet, replica_id: int, request_id: int, now_s: float) -> None:
    """A loaded request enters the waiting queue."""
    _wake(fleet, replica_id, now_s)
    submit_at(fleet, replica_id, request_id, now_s)


@jit
def leave(fleet: Fleet, replica_id: int, request_id: int, now_s: float) -> bool:
    """A request that has not ended leaves; False where the iteration in flight must end first."""
    replica = fleet.replicas[replica_id]
    state = fleet.requests[request_id].state
    if replica.in_flight and state in (PREFILLING, DECODING, PAUSED):
        return False
    withdraw(fleet, replica_id, request_id)
    _wake(fleet, replica_id, now_s)
    return True


@jit
def _wake(fleet: Fleet, replica_id: int, now_s: float) -> None:
    """A replica that stands still, for lack of requests or of memory, may start again from now on."""
    replica = fleet.replicas[replica_id]
    if not replica.in_flight and (replica.clock_s < now_s or replica.clock_s == math.inf):
        replica.clock_s = now_s


@jit
def observe(fleet: Fleet, replica_id: int, now_s: float, row: np.ndarray) -> None:
    """Fills `row` (REPLICA_FEATURES,) with what a router sees of a replica, but for its prefix hits."""
    write_replica_row(fleet, replica_id, now_s, row)
