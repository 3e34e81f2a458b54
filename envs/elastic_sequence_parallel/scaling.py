"""How groups go on: with one instance more or less, together with another, or as they are.

docs/elastic_sequence_parallelism.md, "The decision of an agent".
"""

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.elastic_sequence_parallel.memory import (
    ADDED,
    JOINS,
    PREFILLING,
    RESERVED,
    SINCE_PREFILL,
    SINCE_SCALING,
    of_group,
    of_instance,
)
from servegym.envs.elastic_sequence_parallel.prefilling import find_owners, is_idle
from servegym.envs.sim.elastic.actions import add_member, decode, merge, migrate, pause
from servegym.envs.sim.elastic.fleet_use import latest_of_all, num_members, room_of
from servegym.envs.sim.elastic.groups import free_tokens, is_at_rest, members_run, nobody_runs
from servegym.envs.sim.elastic.state import DECODES, NOBODY, RESTS, FleetState

MASTER_BATCH = 128
"""Requests that a master takes before another is needed [LoongServe's artifact]."""


@kernel
def may_go_on(state: FleetState, group: int) -> bool:
    """Whether it is at rest and neither pending, nor reserved, nor about to join another."""
    reserved = 0
    for instance in range(state.num_instances):
        reserved += state.member[group, instance] * state.integers[of_instance(state, RESERVED, instance)]
    return (
        is_at_rest(state, group)
        and state.integers[of_group(state, JOINS, group)] == 0
        and reserved == 0
        and not members_run(state, group)
    )


@kernel
def idle_instance(state: FleetState) -> int:
    """The first that belongs to no group; NOBODY where there is none. By OWNER."""
    for instance in range(state.num_instances):
        if state.used[instance] == 0 and is_idle(state, instance):
            return instance
    return NOBODY


@kernel
def may_grow(state: FleetState, group: int) -> bool:
    """Whether another master would have work, and there is an instance for it."""
    return state.size[group] > MASTER_BATCH * num_members(state, group) and idle_instance(state) != NOBODY


@kernel
def least_member(state: FleetState, group: int) -> int:
    """The member with the least KV of it."""
    least = NOBODY
    for instance in range(state.num_instances):
        if state.member[group, instance] and (
            least == NOBODY or state.group_kv[group, instance] < state.group_kv[group, least]
        ):
            least = instance
    return least


@kernel
def may_shrink(state: FleetState, group: int) -> bool:
    """Whether its other members have room for the KV of the least, and for the next iteration."""
    least = least_member(state, group)
    others = room_of(state, group) - free_tokens(state, least)
    return num_members(state, group) > 1 and others >= state.group_kv[group, least] + state.size[group]


@kernel
def partner(state: FleetState, group: int) -> int:
    """The decoding group, running or at rest, with the fewest requests that it may join; NOBODY."""
    found = NOBODY
    for other in range(state.size.size):
        if _may_be_joined(state, group, other) and (found == NOBODY or state.size[other] < state.size[found]):
            found = other
    return found


@kernel
def _may_be_joined(state: FleetState, group: int, other: int) -> bool:
    return (
        other != group
        and state.size[other] > 0
        and state.integers[of_group(state, PREFILLING, other)] == 0
        and state.integers[of_group(state, JOINS, other)] == 0
        and state.size[group] + state.size[other] <= state.max_group
        and (state.activity[other] == DECODES or not members_run(state, other))
    )


@kernel
def _roomiest(state: FleetState, group: int) -> int:
    """The decoding group with which it would have room for an iteration of both; NOBODY."""
    found, most = NOBODY, 0
    for other in range(state.size.size):
        if _may_be_joined(state, group, other):
            slots = room_of(state, other)
            enough = slots + room_of(state, group) >= state.size[group] + state.size[other]
            if enough and slots > most:
                found, most = other, slots
    return found


@routine
def grow(state: FleetState, group: int, instance: int) -> None:
    """One more member."""
    add_member(state, group, instance)
    state.integers[of_group(state, ADDED, group)] += 1


@routine
def shrink(state: FleetState, group: int) -> None:
    """One member less; its KV moves to the others, the fullest first."""
    source = least_member(state, group)
    while state.group_kv[group, source] > 0:
        target = NOBODY
        for instance in range(state.num_instances):
            if (
                state.member[group, instance]
                and instance != source
                and free_tokens(state, instance) > 0
                and (target == NOBODY or state.used[instance] > state.used[target])
            ):
                target = instance
        tokens = min(state.group_kv[group, source], free_tokens(state, target))
        state.memory[group] += migrate(state, group, source, target, tokens)


@routine
def take_in(state: FleetState, group: int, other: int) -> None:
    """Two groups at rest become one."""
    merge(state, group, other)
    state.memory[group] = max(state.memory[group], state.memory[other])
    state.integers[of_group(state, ADDED, group)] += state.integers[of_group(state, ADDED, other)]


@routine
def join(state: FleetState, group: int, other: int) -> None:
    """A group is taken in by another, now or when that one's iteration has ended."""
    if state.activity[other] == RESTS:
        take_in(state, other, group)
    else:
        state.integers[of_group(state, JOINS, group)] = 1 + other


@routine
def take_in_joining(state: FleetState) -> None:
    """Groups are taken in whose turn it is."""
    for group in range(state.size.size):
        joins = of_group(state, JOINS, group)
        other = state.integers[joins] - 1
        if other < 0 or state.activity[other] != RESTS:
            continue
        state.integers[joins] = 0
        if state.size[other] > 0:
            take_in(state, other, group)


@routine
def decode_all(state: FleetState) -> None:
    """All groups that may go on decode; where nothing else helps the latest request is paused."""
    while True:
        for group in range(state.size.size):
            if may_go_on(state, group):
                _go_on(state, group)
        if not nobody_runs(state) or not _pause_latest(state):
            return


@routine
def _go_on(state: FleetState, group: int) -> None:
    """A group decodes, or joins another for want of room."""
    slots = room_of(state, group)
    if slots < state.size[group]:
        find_owners(state)
        instance = idle_instance(state)
        while slots < state.size[group] and instance != NOBODY:
            grow(state, group, instance)
            slots += free_tokens(state, instance)
            find_owners(state)
            instance = idle_instance(state)
    if slots < state.size[group]:
        other = _roomiest(state, group)
        if other == NOBODY:
            return
        join(state, group, other)
        if state.size[group] > 0:  # until the other's iteration has ended
            return
        group = other
        if not may_go_on(state, group):
            return
    delay_s, added = state.memory[group], state.integers[of_group(state, ADDED, group)]
    state.memory[group] = 0.0
    state.integers[of_group(state, ADDED, group)] = 0
    decode(state, group, added, delay_s, MASTER_BATCH, True)
    state.integers[of_group(state, SINCE_PREFILL, group)] += 1
    state.integers[of_group(state, SINCE_SCALING, group)] += 1


@routine
def _pause_latest(state: FleetState) -> bool:
    """Pauses the request with the largest number of all groups; False where there is none."""
    latest = latest_of_all(state)
    if latest == NOBODY:
        return False
    pause(state, latest)
    return True
