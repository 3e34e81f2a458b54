"""Which prefills there are to choose from: instances that can be had, and the batch of each degree.

docs/elastic_sequence_parallelism.md, "The decision of an agent".
"""

import numpy as np

from servegym.costmodels.elastic.cost import prefill_seconds
from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.elastic_sequence_parallel.memory import (
    ARRIVAL,
    BEGINS_S,
    GAIN,
    HAD,
    INTERVAL,
    JOINS,
    MAX_PREFILL_S,
    MAX_REQUESTS,
    NUM_HAD,
    NUM_WINDOW,
    OWNER,
    PAUSED_REQUESTS,
    PREFILLING,
    RESERVED,
    SECONDS,
    SHORTEST,
    SINCE_PREFILL,
    SIZE,
    SLOTS,
    TOKENS,
    WINDOW,
    of_batch,
    of_group,
    of_instance,
    of_scratch,
    of_window,
)
from servegym.envs.sim.elastic.fleet_use import requests_in_groups
from servegym.envs.sim.elastic.groups import free_tokens, members_run, prefill_tokens
from servegym.envs.sim.elastic.memory_test import (
    forecast_group,
    held_waiting,
    join_forecast,
    peak_with,
    rest_waiting,
    sort_forecast,
)
from servegym.envs.sim.elastic.queue import first_waiting, next_waiting
from servegym.envs.sim.elastic.state import (
    NOBODY,
    PREFILLS,
    RESTS,
    FleetState,
)


@kernel
def is_pending(state: FleetState, group: int) -> bool:
    """Whether a group at rest has a member that runs for another: it waits to be taken in."""
    return state.activity[group] == RESTS and members_run(state, group)


@routine
def find_owners(state: FleetState) -> None:
    """Fills OWNER."""
    for instance in range(state.num_instances):
        state.integers[of_instance(state, OWNER, instance)] = 0
    for group in range(state.size.size):
        if state.size[group] == 0 or is_pending(state, group):
            continue
        for instance in range(state.num_instances):
            if state.member[group, instance]:
                state.integers[of_instance(state, OWNER, instance)] = 1 + group


@kernel
def is_idle(state: FleetState, instance: int) -> bool:
    """Whether nobody goes on with an instance (OWNER), and it is not reserved."""
    is_free: bool = (
        state.runs_for[instance] == NOBODY
        and state.integers[of_instance(state, OWNER, instance)] == 0
        and state.integers[of_instance(state, RESERVED, instance)] == 0
    )
    return is_free


@kernel
def _can_be_interrupted(state: FleetState, group: int) -> bool:
    since = state.integers[of_group(state, SINCE_PREFILL, group)]
    can: bool = (
        state.size[group] > 0
        and state.activity[group] != PREFILLS
        and state.integers[of_group(state, PREFILLING, group)] == 0
        and state.integers[of_group(state, JOINS, group)] == 0
        and since >= state.parameters[INTERVAL]
        and not is_pending(state, group)
    )
    return can


@routine
def find_instances(state: FleetState) -> None:
    """Fills OWNER and the list of instances that can be had: idle ones, then those of groups, small first."""
    find_owners(state)
    count = 0
    for instance in range(state.num_instances):
        if is_idle(state, instance):
            _insert(state, 0, count, instance)
            count += 1
    last_size, last = -1, -1
    while True:
        least = 2**62
        group = NOBODY
        for each in range(state.size.size):
            size = state.size[each]
            comes = size > last_size or (size == last_size and each > last)
            if comes and size < least and _can_be_interrupted(state, each):
                least, group = size, each
        if group == NOBODY:
            break
        last_size, last = least, group
        first = count
        for instance in range(state.num_instances):
            if state.member[group, instance]:
                _insert(state, first, count, instance)
                count += 1
    state.integers[NUM_HAD] = count


@kernel
def _insert(state: FleetState, first: int, count: int, instance: int) -> None:
    """Into the list between `first` and `count`, by rising `used`."""
    at = count
    while at > first:
        ahead = state.integers[of_instance(state, HAD, at - 1)]
        if state.used[ahead] <= state.used[instance]:
            break
        state.integers[of_instance(state, HAD, at)] = ahead
        at -= 1
    state.integers[of_instance(state, HAD, at)] = instance


@routine
def find_window(state: FleetState) -> None:
    """The first of the queue in both orders."""
    by_arrival, shortest = (
        state.integers[of_window(state, ARRIVAL) :],
        state.integers[of_window(state, SHORTEST) :],
    )
    count, request = 0, first_waiting(state)
    while request != NOBODY and count < WINDOW:
        by_arrival[count] = request
        tokens, at = prefill_tokens(state, request), count
        while at > 0 and prefill_tokens(state, shortest[at - 1]) > tokens:
            shortest[at] = shortest[at - 1]
            at -= 1
        shortest[at] = request
        count += 1
        request = next_waiting(state, request)
    state.integers[NUM_WINDOW] = count


@routine
def find_batches(state: FleetState) -> bool:
    """The batch of each order and degree, on the instances that can be had; whether there is any."""
    found = False
    for order in range(2):
        requests, most = state.integers[of_window(state, order) :], 0
        slots, crosses, paused = 0, 0, 0
        begins_s, last = 0.0, -1
        first_node = state.integers[of_instance(state, HAD, 0)] // state.instances_per_node
        for degree in range(1, state.num_instances + 1):
            if degree > state.integers[NUM_HAD]:
                state.memory[of_batch(state, order, degree, SIZE)] = 0
                continue
            instance = state.integers[of_instance(state, HAD, degree - 1)]
            slots += free_tokens(state, instance)
            if instance // state.instances_per_node != first_node:
                crosses = 1
            owner = state.integers[of_instance(state, OWNER, instance)] - 1
            if owner >= 0 and owner != last:
                paused += state.size[owner]
                last = owner
                if state.activity[owner] != RESTS:
                    begins_s = max(begins_s, state.end_s[owner] - state.clock[0])
            state.memory[of_batch(state, order, degree, SLOTS)] = slots
            state.memory[of_batch(state, order, degree, BEGINS_S)] = begins_s
            state.memory[of_batch(state, order, degree, PAUSED_REQUESTS)] = paused
            size = largest_batch(state, requests, degree, slots, crosses)
            state.memory[of_batch(state, order, degree, SIZE)] = size
            most = max(most, size)
        most = fitting(state, requests, most)
        found = found or most > 0
        crosses = 0
        for degree in range(1, state.integers[NUM_HAD] + 1):
            instance = state.integers[of_instance(state, HAD, degree - 1)]
            if instance // state.instances_per_node != first_node:
                crosses = 1
            size = min(most, int(state.memory[of_batch(state, order, degree, SIZE)]))
            state.memory[of_batch(state, order, degree, SIZE)] = size
            _weigh(state, requests, size, order, degree, crosses)
    return found


@routine
def largest_batch(state: FleetState, requests: np.ndarray, degree: int, slots: int, crosses: int) -> int:
    """How many of the window make a batch, but for the memory test."""
    most = min(
        state.integers[NUM_WINDOW],
        min(int(state.parameters[MAX_REQUESTS]), state.max_group) - requests_in_groups(state),
    )
    total, squares, size = 0, 0, 0
    while size < most:
        tokens = prefill_tokens(state, requests[size])
        total += tokens
        squares += tokens * tokens
        if total > slots:
            break
        seconds = prefill_seconds(state.cost, crosses, degree, total, squares)
        if size > 0 and seconds > state.parameters[MAX_PREFILL_S]:
            break
        size += 1
    return size


@routine
def fitting(state: FleetState, requests: np.ndarray, count: int) -> int:
    """How many of the first `count` pass the memory test with all in groups."""
    capacity = state.num_instances * state.kv_tokens
    at_end = 0  # what all would hold if each were there at its end: no more, and there is nothing to test
    for group in range(state.size.size):
        for at in range(state.size[group]):
            request = state.requests[group, at]
            at_end += state.prompt[request] + state.output[request]
    for at in range(count):
        at_end += state.prompt[requests[at]] + state.output[requests[at]]
    if count == 0 or at_end <= capacity:
        return count
    forecast = state.integers[of_scratch(state) :]
    forecast[0] = 0
    for group in range(state.size.size):
        forecast_group(state, forecast, group)
    sort_forecast(forecast)
    for at in range(count):
        held, rest = held_waiting(state, requests[at]), rest_waiting(state, requests[at])
        if peak_with(forecast, held, rest) > capacity:
            return at
        join_forecast(forecast, held, rest)
    return count


@kernel
def _weigh(state: FleetState, requests: np.ndarray, size: int, order: int, degree: int, crosses: int) -> None:
    total, squares, gain = 0, 0, 0.0
    for at in range(size):
        tokens = prefill_tokens(state, requests[at])
        total += tokens
        squares += tokens * tokens
        gain += 1 / tokens
    seconds = prefill_seconds(state.cost, crosses, degree, total, squares) if size > 0 else 0.0
    state.memory[of_batch(state, order, degree, TOKENS)] = total
    state.memory[of_batch(state, order, degree, SECONDS)] = seconds
    state.memory[of_batch(state, order, degree, GAIN)] = gain
