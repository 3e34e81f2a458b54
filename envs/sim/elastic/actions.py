"""What a manager can do. docs/elastic_sequence_parallelism.md, "Actions of a manager".

An action that is not allowed does nothing but end the simulation, with an error.
"""

import numpy as np

from servegym.costmodels.elastic.cost import migration_seconds, prefill_seconds
from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.elastic.accrual import charge_rejection
from servegym.envs.sim.elastic.groups import (
    count_steps_to_finish,
    crosses_nodes,
    drop_kv,
    free_tokens,
    is_at_rest,
    members_run,
    prefill_tokens,
    release_members,
    settle,
)
from servegym.envs.sim.elastic.masters import appoint, decode_iteration_seconds, share_out
from servegym.envs.sim.elastic.queue import join_front, leave_queue, waits
from servegym.envs.sim.elastic.state import (
    ALREADY_MEMBER,
    DECODES,
    ERROR_CODE,
    ERROR_GROUP,
    ERROR_INSTANCE,
    ERROR_REQUEST,
    GROUP_TOO_LARGE,
    INSTANCE_RUNS,
    MIGRATED_TOKENS,
    NO_ERROR,
    NO_ROOM,
    NO_SUCH_INSTANCE,
    NOBODY,
    NOT_AT_REST,
    NOT_WAITING,
    NOTHING_GIVEN,
    NUM_DECODES,
    NUM_MIGRATIONS,
    NUM_PAUSES,
    NUM_PREFILLS,
    NUM_REJECTED,
    NUM_SCALE_UPS,
    PAUSED,
    PREFILLS,
    REJECTED,
    RESTS,
    SAME_GROUP,
    TOO_FEW_TOKENS,
    TOO_MANY_GROUPS,
    WAITING,
    FleetState,
)

UNLIMITED = 2**31 - 1
"""A `master_batch` that makes one master."""


@routine
def fail(state: FleetState, code: int, group: int, request: int, instance: int) -> None:
    """Ends the simulation."""
    if state.error[ERROR_CODE] == NO_ERROR:
        state.error[ERROR_CODE] = code
        state.error[ERROR_GROUP] = group
        state.error[ERROR_REQUEST] = request
        state.error[ERROR_INSTANCE] = instance
    state.counters[PAUSED] = 1


@routine
def prefill(
    state: FleetState,
    requests: np.ndarray,
    num_requests: int,
    instances: np.ndarray,
    num_instances: int,
    delay_s: float,
    striped: bool,
) -> int:
    """A new group of the first `num_requests` of `requests` on the first of `instances`; its number."""
    group = _new_group(state)
    if not _may_prefill(state, group, requests, num_requests, instances, num_instances):
        return NOBODY
    for at in range(num_instances):
        instance = instances[at]
        if state.runs_for[instance] != NOBODY:  # it is named twice
            fail(state, INSTANCE_RUNS, group, NOBODY, instance)
            return NOBODY
        state.member[group, instance] = 1
        state.runs_for[instance] = group
    total, squares = 0, 0
    for at in range(num_requests):
        request = requests[at]
        if not waits(state, request):  # it is named twice
            fail(state, NOT_WAITING, group, request, NOBODY)
            return NOBODY
        leave_queue(state, request)
        state.requests[group, at] = request
        state.group_of[request] = group
        tokens = prefill_tokens(state, request)
        total += tokens
        squares += tokens * tokens
    state.size[group] = num_requests
    placed = (
        _stripe(state, group, instances, num_instances)
        if striped
        else _pack(state, group, instances, num_instances)
    )
    if not placed:
        fail(state, NO_ROOM, group, NOBODY, NOBODY)
    seconds = prefill_seconds(state.cost, crosses_nodes(state, group), num_instances, total, squares)
    state.end_s[group] = (state.clock[0] + delay_s) + seconds
    state.activity[group] = PREFILLS
    state.counters[NUM_PREFILLS] += 1
    return group


@routine
def add_member(state: FleetState, group: int, instance: int) -> None:
    """An instance joins a group at rest, for the `decode` that follows."""
    if not is_at_rest(state, group):
        fail(state, NOT_AT_REST, group, NOBODY, instance)
    elif not 0 <= instance < state.num_instances:
        fail(state, NO_SUCH_INSTANCE, group, NOBODY, instance)
    elif state.member[group, instance]:
        fail(state, ALREADY_MEMBER, group, NOBODY, instance)
    elif state.runs_for[instance] != NOBODY:
        fail(state, INSTANCE_RUNS, group, NOBODY, instance)
    else:
        state.member[group, instance] = 1


@routine
def decode(
    state: FleetState, group: int, num_added: int, delay_s: float, master_batch: int, fullest_first: bool
) -> None:
    """One iteration of a group, to which `add_member` has added `num_added` instances."""
    if not is_at_rest(state, group):
        fail(state, NOT_AT_REST, group, NOBODY, NOBODY)
        return
    if members_run(state, group):
        fail(state, INSTANCE_RUNS, group, NOBODY, NOBODY)
        return
    num_masters = share_out(state, group, master_batch, fullest_first)
    if num_masters < 0:
        fail(state, NO_ROOM, group, NOBODY, NOBODY)
        return
    appoint(state, group, num_masters)
    for instance in range(state.num_instances):
        if state.member[group, instance]:
            state.runs_for[instance] = group
    state.end_s[group] = (state.clock[0] + delay_s) + decode_iteration_seconds(state, group)
    state.activity[group] = DECODES
    state.counters[NUM_DECODES] += 1
    if num_added > 0:
        state.counters[NUM_SCALE_UPS] += 1


@routine
def merge(state: FleetState, group: int, other: int) -> None:
    """The requests of `other` follow those of `group`, members are united; `other` is no more."""
    if group == other:
        fail(state, SAME_GROUP, group, NOBODY, NOBODY)
        return
    for each in (group, other):
        if not is_at_rest(state, each):
            fail(state, NOT_AT_REST, each, NOBODY, NOBODY)
            return
    if state.size[group] + state.size[other] > state.max_group:
        fail(state, GROUP_TOO_LARGE, group, NOBODY, NOBODY)
        return
    settle(state, group)
    settle(state, other)
    for at in range(state.size[other]):
        request = state.requests[other, at]
        state.requests[group, state.size[group] + at] = request
        state.group_of[request] = group
    state.size[group] += state.size[other]
    for instance in range(state.num_instances):
        state.member[group, instance] |= state.member[other, instance]
        state.group_kv[group, instance] += state.group_kv[other, instance]
    state.steps_to_finish[group] = min(state.steps_to_finish[group], state.steps_to_finish[other])
    state.size[other] = 0


@routine
def migrate(state: FleetState, group: int, source: int, target: int, tokens: int) -> float:
    """KV tokens of a group move from one instance to another; the seconds that takes."""
    if not is_at_rest(state, group):
        fail(state, NOT_AT_REST, group, NOBODY, source)
        return 0.0
    for instance in (source, target):
        if not 0 <= instance < state.num_instances:
            fail(state, NO_SUCH_INSTANCE, group, NOBODY, instance)
            return 0.0
        if state.runs_for[instance] != NOBODY:
            fail(state, INSTANCE_RUNS, group, NOBODY, instance)
            return 0.0
    if source == target or not 1 <= tokens <= state.group_kv[group, source]:
        fail(state, TOO_FEW_TOKENS, group, NOBODY, source)
        return 0.0
    if tokens > free_tokens(state, target):
        fail(state, NO_ROOM, group, NOBODY, target)
        return 0.0
    settle(state, group)
    left = tokens
    for at in range(state.size[group]):
        request = state.requests[group, at]
        moved = min(left, state.kv[request, source])
        state.kv[request, source] -= moved
        state.kv[request, target] += moved
        left -= moved
    state.used[source] -= tokens
    state.used[target] += tokens
    state.group_kv[group, source] -= tokens
    state.group_kv[group, target] += tokens
    state.member[group, target] = 1
    if state.group_kv[group, source] == 0:
        state.member[group, source] = 0
    state.counters[NUM_MIGRATIONS] += 1
    state.counters[MIGRATED_TOKENS] += tokens
    crosses = 1 if source // state.instances_per_node != target // state.instances_per_node else 0
    return migration_seconds(state.cost, crosses, tokens)


@routine
def pause(state: FleetState, request: int) -> None:
    """A request of a group at rest loses its KV and goes to the front of the queue."""
    group = state.group_of[request] if 0 <= request < state.group_of.size else NOBODY
    if not is_at_rest(state, group):
        fail(state, NOT_AT_REST, group, request, NOBODY)
        return
    settle(state, group)
    kept = 0
    for at in range(state.size[group]):
        if state.requests[group, at] != request:
            state.requests[group, kept] = state.requests[group, at]
            kept += 1
    state.size[group] = kept
    drop_kv(state, group, request)
    release_members(state, group)
    count_steps_to_finish(state, group)
    state.group_of[request] = NOBODY
    state.fate[request] = WAITING
    join_front(state, request)
    state.counters[NUM_PAUSES] += 1


@routine
def reject(state: FleetState, request: int) -> None:
    """A waiting request leaves the queue for good."""
    if not waits(state, request):
        fail(state, NOT_WAITING, NOBODY, request, NOBODY)
        return
    leave_queue(state, request)
    state.fate[request] = REJECTED
    state.counters[NUM_REJECTED] += 1
    charge_rejection(state, request)


@kernel
def _new_group(state: FleetState) -> int:
    """The smallest number that is free, cleared; NOBODY where all are taken."""
    for group in range(state.size.size):
        if state.size[group] == 0:
            for instance in range(state.num_instances):
                state.member[group, instance] = 0
                state.group_kv[group, instance] = 0
            state.steps[group] = 0
            state.num_masters[group] = 0
            state.activity[group] = RESTS
            return group
    return NOBODY


@kernel
def _may_prefill(
    state: FleetState,
    group: int,
    requests: np.ndarray,
    num_requests: int,
    instances: np.ndarray,
    num_instances: int,
) -> bool:
    """Whether a prefill is allowed; else the simulation ends."""
    if group == NOBODY:
        fail(state, TOO_MANY_GROUPS, NOBODY, NOBODY, NOBODY)
        return False
    if num_requests < 1 or num_instances < 1:
        fail(state, NOTHING_GIVEN, NOBODY, NOBODY, NOBODY)
        return False
    if num_requests > state.max_group:
        fail(state, GROUP_TOO_LARGE, NOBODY, NOBODY, NOBODY)
        return False
    needed, free = 0, 0
    for at in range(num_requests):
        if not waits(state, requests[at]):
            fail(state, NOT_WAITING, NOBODY, requests[at], NOBODY)
            return False
        needed += prefill_tokens(state, requests[at])
    for at in range(num_instances):
        instance = instances[at]
        if not 0 <= instance < state.num_instances:
            fail(state, NO_SUCH_INSTANCE, NOBODY, NOBODY, instance)
            return False
        if state.runs_for[instance] != NOBODY:
            fail(state, INSTANCE_RUNS, NOBODY, NOBODY, instance)
            return False
        free += free_tokens(state, instance)
    if needed > free:
        fail(state, NO_ROOM, NOBODY, NOBODY, NOBODY)
        return False
    return True


@kernel
def _place(state: FleetState, group: int, request: int, instance: int, tokens: int) -> None:
    state.kv[request, instance] += tokens
    state.group_kv[group, instance] += tokens
    state.used[instance] += tokens


@kernel
def _pack(state: FleetState, group: int, instances: np.ndarray, num_instances: int) -> bool:
    """Request by request to the fullest instance with room, then to the next."""
    for rank in range(num_instances):
        instance, at = instances[rank], rank
        used = state.used[instance]
        while at > 0 and (
            state.used[state.order[at - 1]] < used
            or (state.used[state.order[at - 1]] == used and state.order[at - 1] > instance)
        ):
            state.order[at] = state.order[at - 1]
            at -= 1
        state.order[at] = instance
    rank = 0
    for at in range(state.size[group]):
        request = state.requests[group, at]
        left = prefill_tokens(state, request)
        while left > 0:
            if rank == num_instances:
                return False
            instance = state.order[rank]
            part = min(left, free_tokens(state, instance))
            _place(state, group, request, instance, part)
            left -= part
            if left > 0:
                rank += 1
    return True


@kernel
def _stripe(state: FleetState, group: int, instances: np.ndarray, num_instances: int) -> bool:
    """Evenly over the instances."""
    for at in range(state.size[group]):
        request = state.requests[group, at]
        tokens = prefill_tokens(state, request)
        for rank in range(num_instances):
            part = (tokens - rank + num_instances - 1) // num_instances
            _place(state, group, request, instances[rank], part)
    overfull = 0
    for rank in range(num_instances):
        overfull += state.used[instances[rank]] > state.kv_tokens
    return overfull == 0
