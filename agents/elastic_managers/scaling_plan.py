"""LoongServe's scaling plan: each group that goes on gets room for its next iteration, and instances to
compute on.

Wu et al. (SOSP 2024), section 5.4; `router/manager.py` of their code. A group without room takes the group
with the most room, else instances that are spare; a scale-up adds spare instances as long as a master had
more than `master_batch` requests."""

from servegym.agents.elastic_managers.loongserve_state import (
    GIVEN_TO,
    IDLE_TOKENS,
    MASTER_BATCH,
    SCALE_UP,
    SPARE,
    TAKEN,
    TAKERS,
    goes_on,
)
from servegym.agents.elastic_managers.workspace import group_row
from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.elastic.actions import UNLIMITED, add_member, decode, merge, pause
from servegym.envs.sim.elastic.fleet_use import latest_of, room_of
from servegym.envs.sim.elastic.groups import free_tokens
from servegym.envs.sim.elastic.masters import order_members
from servegym.envs.sim.elastic.state import NOBODY, FleetState

_GONE = -(2**62)
"""In place of the idle tokens of a group that is not planned for (any more)."""


@routine
def plan_scaling(state: FleetState, num_spare: int) -> bool:
    """Plans the next iteration of all groups that go on, with the first of SPARE; whether there is room.

    Then groups are merged, and `decode_planned` may follow; else nothing has changed.
    """
    if state.parameters[SCALE_UP] == 0:
        _make_room_on_one_master(state)
        return True
    spare = state.integers[group_row(state, SPARE) :]
    given_to = state.integers[group_row(state, GIVEN_TO) :]
    idle = state.integers[group_row(state, IDLE_TOKENS) :]
    total = 0
    for group in range(state.size.size):
        idle[group] = _GONE
        if goes_on(state, group):
            idle[group] = room_of(state, group) - state.size[group]
            total += idle[group]
    for at in range(num_spare):
        given_to[at] = NOBODY
        total += free_tokens(state, spare[at])
    if total < 0:
        return False
    num_given, num_merges = 0, 0
    taker = _shortest(state)
    while taker != NOBODY:
        while idle[taker] < 0:
            other = _roomiest(state)
            if other != NOBODY:
                state.integers[group_row(state, TAKERS) + num_merges] = taker
                state.integers[group_row(state, TAKEN) + num_merges] = other
                num_merges += 1
                idle[taker] += idle[other]
                idle[other] = _GONE
                for at in range(num_given):
                    if given_to[at] == other:
                        given_to[at] = taker
            elif num_given < num_spare:
                given_to[num_given] = taker
                idle[taker] += free_tokens(state, spare[num_given])
                num_given += 1
            else:
                return False
        taker = _shortest(state)
    for at in range(num_merges):
        merge(
            state,
            state.integers[group_row(state, TAKERS) + at],
            state.integers[group_row(state, TAKEN) + at],
        )
    _give_to_compute(state, num_given, num_spare)
    return True


@routine
def decode_planned(state: FleetState, num_spare: int, delay_s: float) -> int:
    """All groups that go on decode as planned; how many there are."""
    spare, given_to = group_row(state, SPARE), group_row(state, GIVEN_TO)
    scale_up = state.parameters[SCALE_UP] != 0
    master_batch = int(state.parameters[MASTER_BATCH]) if scale_up else UNLIMITED
    count = 0
    for group in range(state.size.size):
        if goes_on(state, group):
            added = 0
            for at in range(num_spare if scale_up else 0):
                if state.integers[given_to + at] == group:
                    add_member(state, group, state.integers[spare + at])
                    added += 1
            decode(state, group, added, delay_s, master_batch, True)
            count += 1
    return count


@kernel
def has_room(state: FleetState, group: int) -> bool:
    """Whether the members of a group have room for its next iteration; without `scale_up`, on one of them."""
    if state.parameters[SCALE_UP] == 0:
        return bool(_room_on_one_master(state, group) >= state.size[group])
    return bool(room_of(state, group) >= state.size[group])


@kernel
def _shortest(state: FleetState) -> int:
    """The group that lacks most tokens, NOBODY where none does."""
    idle = group_row(state, IDLE_TOKENS)
    found, least = NOBODY, 0
    for group in range(state.size.size):
        tokens = state.integers[idle + group]
        if tokens != _GONE and tokens < least:
            found, least = group, tokens
    return found


@kernel
def _roomiest(state: FleetState) -> int:
    """The last of the groups with most idle tokens, NOBODY where all lack some."""
    idle = group_row(state, IDLE_TOKENS)
    found, most = NOBODY, 0
    for group in range(state.size.size):
        tokens = state.integers[idle + group]
        if tokens >= most:
            found, most = group, tokens
    return found


@kernel
def _give_to_compute(state: FleetState, num_given: int, num_spare: int) -> None:
    """Groups get spare instances, the last first, while a master would have more than `master_batch`."""
    spare = state.integers[group_row(state, SPARE) :]
    given_to = state.integers[group_row(state, GIVEN_TO) :]
    master_batch = int(state.parameters[MASTER_BATCH])
    last = num_spare
    for group in range(state.size.size):
        if not goes_on(state, group):
            continue
        members = order_members(state, group, True)
        for at in range(num_given):
            if given_to[at] == group:
                _insert(state, members, spare[at])
                members += 1
        left, rank = state.size[group], 0
        while rank < members:
            free = free_tokens(state, state.order[rank])
            while free > 0 and left // (members - rank) > master_batch and last > num_given:
                last -= 1
                given_to[last] = group
                state.order[members] = spare[last]
                members += 1
            left -= min(left, free, max(left // (members - rank), master_batch))
            rank += 1


@kernel
def _insert(state: FleetState, count: int, instance: int) -> None:
    """Into `state.order`, fullest first."""
    used, at = state.used[instance], count
    while at > 0:
        other = state.order[at - 1]
        if state.used[other] > used or (state.used[other] == used and other < instance):
            break
        state.order[at] = other
        at -= 1
    state.order[at] = instance


@kernel
def _room_on_one_master(state: FleetState, group: int) -> int:
    """Of the fullest member that has any room, 0 where none has."""
    least = 0
    for instance in range(state.num_instances):
        if state.member[group, instance]:
            free = free_tokens(state, instance)
            if free > 0 and (least == 0 or free < least):
                least = free
    return least


@kernel
def _make_room_on_one_master(state: FleetState) -> None:
    """The latest requests of groups are paused until one member has room for the others."""
    for group in range(state.size.size):
        while goes_on(state, group) and _room_on_one_master(state, group) < state.size[group]:
            pause(state, latest_of(state, group))
