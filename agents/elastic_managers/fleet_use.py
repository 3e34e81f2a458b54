"""What managers ask of a fleet as a whole."""

from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.elastic.state import NOBODY, FleetState


@kernel
def requests_in_groups(state: FleetState) -> int:
    """How many requests are served."""
    count = 0
    for group in range(state.size.size):
        count += state.size[group]
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
def num_members(state: FleetState, group: int) -> int:
    """Of a group."""
    count = 0
    for instance in range(state.num_instances):
        count += state.member[group, instance]
    return count


@kernel
def shared_member(state: FleetState, group: int, other: int) -> bool:
    """Whether an instance is a member of both."""
    for instance in range(state.num_instances):
        if state.member[group, instance] and state.member[other, instance]:
            return True
    return False
