"""What managers ask of a fleet as a whole, and of a group."""

from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.elastic.groups import free_tokens
from servegym.envs.sim.elastic.state import (
    NEXT_ARRIVAL,
    NOBODY,
    NUM_FINISHED,
    NUM_REJECTED,
    NUM_WAITING,
    FleetState,
)


@kernel
def requests_in_groups(state: FleetState) -> int:
    """How many requests are served: those that have come, and neither wait nor are through."""
    counters = state.counters
    ended = counters[NUM_FINISHED] + counters[NUM_REJECTED]
    count: int = counters[NEXT_ARRIVAL] - ended - counters[NUM_WAITING]
    return count


@kernel
def used_tokens(state: FleetState) -> int:
    """KV tokens on all instances."""
    total = 0
    for instance in range(state.num_instances):
        total += state.used[instance]
    return total


@kernel
def latest_of(state: FleetState, group: int) -> int:
    """The request of a group that came last, NOBODY where it has none."""
    latest = NOBODY
    for at in range(state.size[group]):
        latest = max(latest, state.requests[group, at])
    return latest


@kernel
def latest_of_all(state: FleetState) -> int:
    """The request of all groups that came last, NOBODY where there is none."""
    latest = NOBODY
    for group in range(state.size.size):
        latest = max(latest, latest_of(state, group))
    return latest


@kernel
def num_members(state: FleetState, group: int) -> int:
    """Of a group."""
    count = 0
    for instance in range(state.num_instances):
        count += state.member[group, instance]
    return count


@kernel
def room_of(state: FleetState, group: int) -> int:
    """Free KV tokens on its members."""
    tokens = 0
    for instance in range(state.num_instances):
        if state.member[group, instance]:
            tokens += free_tokens(state, instance)
    return tokens


@kernel
def shared_member(state: FleetState, group: int, other: int) -> bool:
    """Whether an instance is a member of both."""
    for instance in range(state.num_instances):
        if state.member[group, instance] and state.member[other, instance]:
            return True
    return False
