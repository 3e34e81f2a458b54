"""Whether a batch sent now would be in time, and dropping those whom none would serve in time."""

import math

from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.batch.actions import drop
from servegym.envs.sim.batch.queues import deadline_of, end_if_sent, num_waiting
from servegym.envs.sim.batch.state import ClusterState


@kernel
def is_feasible(state: ClusterState, model: int, size: int) -> bool:
    """Whether a batch for a GPU that is idle would end by the deadline of the first in the queue."""
    return end_if_sent(state, model, size, -math.inf) <= deadline_of(state, model, 0)


@kernel
def largest_feasible(state: ClusterState, model: int, most: int) -> int:
    """The largest batch of up to `most` that is feasible; 0 without one. The queue must not be empty."""
    low, high = 0, most
    while low < high:  # larger batches end later, so that halving finds what counting up would
        size = (low + high + 1) // 2
        if is_feasible(state, model, size):
            low = size
        else:
            high = size - 1
    return low


@kernel
def expire(state: ClusterState, model: int) -> None:
    """Drops from the front of a queue all for whom even a batch of 1 would be late."""
    end_s = end_if_sent(state, model, 1, -math.inf)
    hopeless = 0
    while hopeless < num_waiting(state, model) and end_s > deadline_of(state, model, hopeless):
        hopeless += 1
    if hopeless > 0:
        drop(state, model, hopeless)
