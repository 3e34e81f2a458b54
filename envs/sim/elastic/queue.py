"""The queue of waiting requests: a ring of links, its start at index R, the most requests there may be."""

from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.elastic.state import NOBODY, NUM_WAITING, WAITING, FleetState


@kernel
def first_waiting(state: FleetState) -> int:
    """The first of the queue, NOBODY where none waits."""
    return next_waiting(state, state.arrival_s.size)


@kernel
def next_waiting(state: FleetState, request: int) -> int:
    """The one that waits behind it, NOBODY behind the last."""
    following = state.after[request]
    return NOBODY if following == state.arrival_s.size else following


@kernel
def waits(state: FleetState, request: int) -> bool:
    """Whether it is in the queue."""
    return (
        0 <= request < state.arrival_s.size
        and state.after[request] != NOBODY
        and state.fate[request] == WAITING
    )


@kernel
def join_back(state: FleetState, request: int) -> None:
    """Behind all others."""
    _link(state, request, state.before[state.arrival_s.size])


@kernel
def join_front(state: FleetState, request: int) -> None:
    """Ahead of all others."""
    _link(state, request, state.arrival_s.size)


@kernel
def leave_queue(state: FleetState, request: int) -> None:
    """Out of the queue, from wherever it stands."""
    ahead, behind = state.before[request], state.after[request]
    state.after[ahead] = behind
    state.before[behind] = ahead
    state.after[request] = NOBODY
    state.counters[NUM_WAITING] -= 1


@kernel
def _link(state: FleetState, request: int, ahead: int) -> None:
    behind = state.after[ahead]
    state.after[ahead] = request
    state.before[request] = ahead
    state.after[request] = behind
    state.before[behind] = request
    state.counters[NUM_WAITING] += 1
