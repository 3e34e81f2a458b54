"""LoongServe's macro iteration: instances for the prefill of admitted requests; who can goes on decoding.

Wu et al. (SOSP 2024), sections 5.2 and 5.3; `router/manager.py` of their code. Running groups make instances
free by moving together (compaction), or wait for the prefills (pending) where there is no room otherwise, or
where all gain. As long as prefills run, instances left over serve more waiting requests, if these will be
ready in time (greedy)."""

from servegym.agents.elastic_managers.batching import (
    BATCH_COLUMNS,
    FIRST_INSTANCE,
    FIRST_REQUEST,
    NUM_INSTANCES,
    NUM_REQUESTS,
    find_batches,
)
from servegym.agents.elastic_managers.loongserve_state import (
    ADMITTED,
    AVAILABLE,
    FORECAST,
    FREE,
    KEYS,
    LENGTHS,
    MACRO_END,
    MASTER_BATCH,
    ONE_BATCH,
    ORDER,
    PENDING,
    PRUNED,
    REALS,
    SCALE_UP,
    SPARE,
    batches_at,
    goes_on,
    prefill_on,
    work_at,
)
from servegym.agents.elastic_managers.scaling_plan import decode_planned, has_room, plan_scaling
from servegym.agents.elastic_managers.workspace import MAX_REQUESTS, MAX_TOKENS, group_row, request_row
from servegym.costmodels.elastic.cost import migration_seconds
from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.elastic.actions import UNLIMITED, decode, merge, migrate, prefill
from servegym.envs.sim.elastic.fleet_use import num_members, requests_in_groups, shared_member, used_tokens
from servegym.envs.sim.elastic.groups import free_tokens, prefill_tokens, tokens_out
from servegym.envs.sim.elastic.memory_test import (
    held_waiting,
    join_forecast,
    peak_with,
    rest_waiting,
    sort_forecast,
)
from servegym.envs.sim.elastic.queue import first_waiting, next_waiting
from servegym.envs.sim.elastic.sorting import sort_falling
from servegym.envs.sim.elastic.state import NOBODY, NUM_WAITING, FleetState


@routine
def begin_macro_iteration(state: FleetState, num_admitted: int) -> None:
    """Prefills the requests of the row ADMITTED; groups that are not in the way go on."""
    admitted = state.integers[request_row(state, ADMITTED) :]
    available = state.integers[group_row(state, AVAILABLE) :]
    tokens, squares, gain = 0, 0, 0.0
    for at in range(num_admitted):
        length = prefill_tokens(state, admitted[at])
        tokens += length
        squares += length * length
        gain += 1.0 / length
    delay_s = _compact(state, tokens, squares) if state.parameters[SCALE_UP] != 0 else 0.0
    num_available = 0
    for instance in range(state.num_instances):
        if state.used[instance] == 0:
            available[num_available] = instance
            num_available += 1
    num_empty = num_available
    num_available = _take_for_room(state, num_available, tokens)
    took_any = num_available > num_empty
    num_available = _take_for_speed(state, num_available, took_any, tokens, squares, gain)
    num_spare = _let_go_on(state, num_available, tokens)
    if num_spare == NOBODY:
        num_available, num_spare = _hold_up_all(state), 0
    num_available -= num_spare
    num_batches = _batch(state, num_admitted, num_available)
    decode_planned(state, num_spare, delay_s)
    slowest_s = _prefill_batches(state, num_batches, delay_s)
    state.memory[MACRO_END] = (state.clock[0] + delay_s) + slowest_s


@routine
def go_on_with_macro_iteration(state: FleetState) -> None:
    """While one of its prefills runs: groups go on, and instances left over serve more waiting requests."""
    scale_up = state.parameters[SCALE_UP] != 0
    master_batch = int(state.parameters[MASTER_BATCH]) if scale_up else UNLIMITED
    for group in range(state.size.size):
        if goes_on(state, group) and has_room(state, group):
            decode(state, group, 0, 0.0, master_batch, True)
    if state.counters[NUM_WAITING] > 0:
        num_available = _find_left_over(state)
        if num_available > 0:
            num_chosen = _choose_greedily(state, num_available)
            if num_chosen > 0:
                _prefill_batches(state, _batch(state, num_chosen, num_available), 0.0)


@routine
def end_macro_iteration(state: FleetState) -> None:
    """Once nothing runs: groups that share instances become one, those that waited too."""
    pending = state.integers[group_row(state, PENDING) :]
    for group in range(state.size.size):
        if state.size[group] > 0 and not pending[group]:
            other = 0
            while other < state.size.size:
                if other != group and state.size[other] > 0 and shared_member(state, group, other):
                    merge(state, group, other)
                    pending[other] = 0
                    other = 0
                else:
                    other += 1
    for group in range(state.size.size):
        pending[group] = 0


@kernel
def _compact(state: FleetState, tokens: int, squares: int) -> float:
    """KV of the least used instances moves to fuller ones as long as that pays; the seconds it takes."""
    pool, instances = state.kv_tokens, state.num_instances
    filled = (used_tokens(state) + pool - 1) // pool
    could_idle = instances - filled
    order = state.integers[group_row(state, ORDER) :]
    busy = 0
    for instance in range(instances):
        if state.used[instance] == 0:
            continue
        at = busy
        while at > 0 and state.used[order[at - 1]] < state.used[instance]:
            order[at] = order[at - 1]
            at -= 1
        order[at] = instance
        busy += 1
    delay_s = 0.0
    if filled >= busy or tokens > could_idle * pool:
        return delay_s
    idle, target_at = instances - busy, filled - 1
    while idle < could_idle:
        busy -= 1
        source = order[busy]
        if tokens <= idle * pool:
            gain_s = prefill_on(state, idle, tokens, squares) - prefill_on(state, idle + 1, tokens, squares)
            if gain_s < migration_seconds(state.cost, 0, state.used[source]):
                break
        while state.used[source] > 0:
            target = order[target_at]
            moved = min(state.used[source], free_tokens(state, target))
            if moved == 0:
                target_at -= 1
                continue
            group, other = _group_on(state, target), _group_on(state, source)
            if group != other:
                merge(state, group, other)
            delay_s += migrate(state, group, source, target, moved)
        idle += 1
    return delay_s


@kernel
def _group_on(state: FleetState, instance: int) -> int:
    """The group an instance is a member of, where there is one at most."""
    for group in range(state.size.size):
        if state.size[group] > 0 and state.member[group, instance]:
            return group
    return NOBODY


@kernel
def _room_of(state: FleetState, group: int) -> int:
    """KV tokens that its members could hold beside its own."""
    room = 0
    for instance in range(state.num_instances):
        if state.member[group, instance]:
            room += state.kv_tokens
        room -= state.group_kv[group, instance]
    return room


@kernel
def _hold_up(state: FleetState, group: int, num_available: int) -> int:
    """A group becomes pending, its members available; how many are then."""
    state.integers[group_row(state, PENDING) + group] = 1
    available = group_row(state, AVAILABLE)
    for instance in range(state.num_instances):
        if state.member[group, instance]:
            state.integers[available + num_available] = instance
            num_available += 1
    return num_available


@kernel
def _take_for_room(state: FleetState, num_available: int, tokens: int) -> int:
    """The roomiest groups become pending until there is room; how many are available then."""
    lack = tokens - num_available * state.kv_tokens
    while lack > 0:
        roomiest, most = NOBODY, -1
        for group in range(state.size.size):
            if goes_on(state, group):
                room = _room_of(state, group)
                if room >= most:
                    roomiest, most = group, room
        lack -= most
        num_available = _hold_up(state, roomiest, num_available)
    return num_available


@kernel
def _take_for_speed(
    state: FleetState, num_available: int, by_room: bool, tokens: int, squares: int, gain: float
) -> int:
    """Groups become pending that lose less than prefills gain; how many are available then."""
    order = state.integers[group_row(state, ORDER) :]
    count = 0
    for group in range(state.size.size):
        if goes_on(state, group):
            at = count
            while by_room and at > 0 and _room_of(state, order[at - 1]) > _room_of(state, group):
                order[at] = order[at - 1]
                at -= 1
            order[at] = group
            count += 1
    for at in range(count):
        group = order[at]
        requests, out = state.size[group], 0
        for place in range(requests):
            out += tokens_out(state, state.requests[group, place])
        with_it = num_available + num_members(state, group)
        without_s = prefill_on(state, num_available, tokens, squares)
        with_s = prefill_on(state, with_it, tokens, squares)
        if (without_s - with_s) * gain >= with_s * requests * (requests / out):
            num_available = _hold_up(state, group, num_available)
    return num_available


@kernel
def _hold_up_all(state: FleetState) -> int:
    """All groups become pending, all instances available; how many."""
    for group in range(state.size.size):
        if goes_on(state, group):
            state.integers[group_row(state, PENDING) + group] = 1
    for instance in range(state.num_instances):
        state.integers[group_row(state, AVAILABLE) + instance] = instance
    return state.num_instances


@kernel
def _let_go_on(state: FleetState, num_available: int, tokens: int) -> int:
    """Plans for the groups that go on, if need be with the last available instances as spare ones.

    How many of these it takes; NOBODY where the groups cannot go on beside the prefills.
    """
    if plan_scaling(state, 0):
        return 0
    available = state.integers[group_row(state, AVAILABLE) :]
    spare = state.integers[group_row(state, SPARE) :]
    room = 0
    for at in range(num_available):
        room += free_tokens(state, available[at])
    num_spare = 0
    while num_spare < num_available:
        last = available[num_available - 1 - num_spare]
        room -= free_tokens(state, last)
        if tokens > room:
            return NOBODY
        spare[num_spare] = last
        num_spare += 1
        if plan_scaling(state, num_spare):
            return num_spare
    return NOBODY


@kernel
def _find_left_over(state: FleetState) -> int:
    """Fills AVAILABLE with instances that run for nobody and belong to pending groups at most; how many."""
    pending = state.integers[group_row(state, PENDING) :]
    available = state.integers[group_row(state, AVAILABLE) :]
    count = 0
    for instance in range(state.num_instances):
        if state.runs_for[instance] == NOBODY:
            claims = 0
            for group in range(state.size.size):
                if state.size[group] > 0 and not pending[group]:
                    claims += state.member[group, instance]
            if claims == 0:
                available[count] = instance
                count += 1
    return count


@kernel
def _choose_greedily(state: FleetState, num_available: int) -> int:
    """Fills ADMITTED with waiting requests that will be ready before the macro iteration ends; how many."""
    chosen = state.integers[request_row(state, ADMITTED) :]
    forecast = state.integers[request_row(state, FORECAST) :]
    left_s = state.memory[MACRO_END] - state.clock[0]
    if prefill_on(state, num_available, 1, 1) > left_s:
        return 0
    room = 0
    for at in range(num_available):
        room += free_tokens(state, state.integers[group_row(state, AVAILABLE) + at])
    limit = int(state.parameters[MAX_REQUESTS]) - requests_in_groups(state)
    forecast[0] = 0
    sort_forecast(forecast)
    count, tokens, squares = 0, 0, 0
    request = first_waiting(state)
    while request != NOBODY and count < limit:
        length = prefill_tokens(state, request)
        held, rest = held_waiting(state, request), rest_waiting(state, request)
        new_tokens, new_squares = tokens + length, squares + length * length
        if (
            new_tokens <= state.parameters[MAX_TOKENS]
            and prefill_on(state, num_available, new_tokens, new_squares) <= left_s
            and peak_with(forecast, held, rest) <= room
        ):
            join_forecast(forecast, held, rest)
            chosen[count] = request
            count += 1
            tokens, squares = new_tokens, new_squares
        request = next_waiting(state, request)
    return count


_PLACE_BITS = 31


@kernel
def _batch(state: FleetState, num_requests: int, num_available: int) -> int:
    """Batches of the first of ADMITTED on the first of AVAILABLE, which are put in order; how many."""
    admitted = state.integers[request_row(state, ADMITTED) :]
    keys = state.integers[request_row(state, KEYS) :]
    lengths = state.integers[request_row(state, LENGTHS) :]
    available = state.integers[group_row(state, AVAILABLE) :]
    free = state.integers[group_row(state, FREE) :]
    mask = (1 << _PLACE_BITS) - 1
    for at in range(num_requests):
        keys[at] = (prefill_tokens(state, admitted[at]) << _PLACE_BITS) | (mask - at)
    sort_falling(keys, num_requests)
    for at in range(num_requests):
        lengths[at] = keys[at] >> _PLACE_BITS
        keys[at] = admitted[mask - (keys[at] & mask)]
    for at in range(num_available):
        free[at] = (state.used[available[at]] << _PLACE_BITS) | available[at]
        free[at] = -free[at]
    sort_falling(free, num_available)
    for at in range(num_available):
        available[at] = -free[at] & mask
        free[at] = free_tokens(state, available[at])
    return find_batches(
        state.cost,
        state.instances_per_node,
        lengths,
        num_requests,
        free,
        num_available,
        state.parameters[PRUNED] != 0,
        state.parameters[ONE_BATCH] != 0,
        state.memory[REALS:],
        state.integers[work_at(state) :],
        state.integers[batches_at(state) :],
    )


@kernel
def _prefill_batches(state: FleetState, num_batches: int, delay_s: float) -> float:
    """Starts the batches of `_batch`; how long the slowest takes."""
    requests = state.integers[request_row(state, KEYS) :]
    lengths = state.integers[request_row(state, LENGTHS) :]
    available = state.integers[group_row(state, AVAILABLE) :]
    slowest_s = 0.0
    for number in range(num_batches):
        row = batches_at(state) + BATCH_COLUMNS * number
        first = state.integers[row + FIRST_REQUEST]
        count = state.integers[row + NUM_REQUESTS]
        first_instance = state.integers[row + FIRST_INSTANCE]
        num_instances = state.integers[row + NUM_INSTANCES]
        tokens, squares = 0, 0
        for at in range(first, first + count):
            tokens += lengths[at]
            squares += lengths[at] * lengths[at]
        slowest_s = max(slowest_s, prefill_on(state, num_instances, tokens, squares))
        prefill(state, requests[first:], count, available[first_instance:], num_instances, delay_s, False)
    return slowest_s
