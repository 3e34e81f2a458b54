"""The queues of a cluster: who waits, since when, until when. Kernels for schedulers."""

import math

from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.batch.min_tree import NONE, first_at_most, first_smallest
from servegym.envs.sim.batch.state import ACTIVE, NOW, ClusterState


@kernel
def now_s(state: ClusterState) -> float:
    """The present."""
    return state.clock[NOW]


@kernel
def num_waiting(state: ClusterState, model: int) -> int:
    """Length of a queue."""
    return state.tail[model] - state.head[model]


@kernel
def arrival_of(state: ClusterState, model: int, place: int) -> float:
    """When the request at a place of a queue arrived; 0 is the oldest."""
    return state.arrival_s[state.queue[state.head[model] + place]]


@kernel
def deadline_of(state: ClusterState, model: int, place: int) -> float:
    """When the batch of the request at a place of a queue must end."""
    return arrival_of(state, model, place) + state.slo_s[model] - state.response_s


@kernel
def lead_s(state: ClusterState, size: int) -> float:
    """From sending a batch to its arrival at a GPU."""
    return state.control_s + state.data_s * size


@kernel
def end_if_sent(state: ClusterState, model: int, size: int, free_at_s: float) -> float:
    """When a batch sent now would end on a GPU that is free from then on (-inf: now)."""
    return max(state.clock[NOW] + lead_s(state, size), free_at_s) + state.latency_s[model, size]


@kernel
def has_room(state: ClusterState, gpu: int) -> bool:
    """Whether a GPU may get a batch."""
    return state.status[gpu] == ACTIVE and state.held[gpu] < 2


@kernel
def is_idle(state: ClusterState, gpu: int) -> bool:
    """Whether a GPU is active and has no batch."""
    return state.status[gpu] == ACTIVE and state.held[gpu] == 0


@kernel
def first_idle(state: ClusterState) -> int:
    """The first GPU that is active and has no batch; NONE without one."""
    return first_at_most(state.idle, 0.0)


@kernel
def first_free(state: ClusterState) -> int:
    """The GPU with room that is free first, the smallest number of equals; NONE without one."""
    return first_smallest(state.with_room)


@kernel
def free_from(state: ClusterState, gpu: int) -> float:
    """When a GPU will have ended all it has; inf for NONE."""
    return math.inf if gpu == NONE else state.free_at_s[gpu]
