"""Fixed parallelism: parts of the fleet that each work as one, with the same degree for ever.

What LoongServe (Wu et al., SOSP 2024) is compared with under its own engine (`use_fixed_sp` of its
artifact): TP2 x SP4 is `degree = 4` of instances of two GPUs, four replicas are `degree = 1`, TP8 is one
instance of eight GPUs. Requests belong to parts in turn; each part prefills when it is idle, or after some
decode iterations, with tokens striped over its instances, and decodes with one master. Rules:
docs/elastic_sequence_parallelism.md."""

import numpy as np

from servegym.agents.elastic_managers.workspace import (
    MAX_REQUESTS,
    MAX_TOKENS,
    MAX_WAIT,
    check_max_requests,
    group_row,
    integers_of_rows,
    request_row,
)
from servegym.agents.parameters import NonNegativeInt, PositiveInt
from servegym.agents.published import Evidence, published
from servegym.costmodels.errors import InputError
from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.elastic.actions import UNLIMITED, add_member, decode, merge, pause, prefill, reject
from servegym.envs.sim.elastic.fleet_use import latest_of
from servegym.envs.sim.elastic.groups import free_tokens, prefill_tokens
from servegym.envs.sim.elastic.manager import Manager, compiled_manage
from servegym.envs.sim.elastic.memory_test import (
    FORECAST_ROWS,
    forecast_group,
    held_waiting,
    join_forecast,
    peak_with,
    rest_waiting,
    sort_forecast,
)
from servegym.envs.sim.elastic.state import NEXT_ARRIVAL, NOBODY, REJECTED, FleetState

_DEGREE = MAX_WAIT + 1

_SEEN, _TURN = range(2)
"""Scalars: arrivals so far, and the part whose turn is next."""

(
    _WAIT,  # of a part: decode iterations since requests were last looked for
    _NEWEST,  # the group of its last prefill
    _FIRST,  # 1 + the request at the head of its queue, 0 for none
    _LAST,  # at the end
    _INSTANCES,  # of a prefill
) = range(5)
"""Group rows, by part."""

_CHOSEN, _FORECAST, _NEXT = 0, 1, 1 + FORECAST_ROWS
"""Request rows; from the last on, for each request of the workload, 1 + the one behind it."""


@compiled_manage
def manage(state: FleetState) -> None:
    """Every part that is free does its next iteration."""
    degree = int(state.parameters[_DEGREE])
    _take_in(state, degree)
    for part in range(state.num_instances // degree):
        if not _runs(state, part * degree, degree):
            _go_on(state, part, degree)


@routine
def _take_in(state: FleetState, degree: int) -> None:
    """Requests that have arrived join the queues of parts in turn, or are rejected."""
    integers = state.integers
    while integers[_SEEN] < state.counters[NEXT_ARRIVAL]:
        request = integers[_SEEN]
        integers[_SEEN] += 1
        if state.fate[request] == REJECTED:
            continue
        if state.prompt[request] + state.output[request] > state.kv_tokens * degree:
            reject(state, request)
            continue
        part = integers[_TURN]
        integers[_TURN] = (part + 1) % (state.num_instances // degree)
        first, last = group_row(state, _FIRST) + part, group_row(state, _LAST) + part
        if integers[first] == 0:
            integers[first] = 1 + request
        else:
            integers[request_row(state, _NEXT) + integers[last] - 1] = 1 + request
        integers[last] = 1 + request


@kernel
def _runs(state: FleetState, start: int, degree: int) -> bool:
    count = 0
    for instance in range(start, start + degree):
        count += state.runs_for[instance] != NOBODY
    return count > 0


@routine
def _go_on(state: FleetState, part: int, degree: int) -> None:
    """The next iteration of a part, if it has requests."""
    start = part * degree
    wait = group_row(state, _WAIT) + part
    while True:
        group = _united_group(state, part, degree)
        if group == NOBODY or state.integers[wait] >= state.parameters[MAX_WAIT]:
            if group != NOBODY:
                state.integers[wait] = 0
            if _prefill(state, part, degree, group):
                return
        if group == NOBODY:
            return
        if _decode(state, group, start, degree):
            state.integers[wait] += 1
            return
        latest = latest_of(state, group)
        pause(state, latest)
        _join_front(state, part, latest)
        state.integers[wait] = 0


@kernel
def _united_group(state: FleetState, part: int, degree: int) -> int:
    """The group of a part, once what has been prefilled is in it; NOBODY."""
    found = NOBODY
    for group in range(state.size.size):
        if state.size[group] > 0 and _has_member_in(state, group, part * degree, degree):
            if found == NOBODY:
                found = group
            elif found == state.integers[group_row(state, _NEWEST) + part]:
                merge(state, group, found)
                return group
            else:
                merge(state, found, group)
                return found
    return found


@kernel
def _has_member_in(state: FleetState, group: int, start: int, degree: int) -> bool:
    count = 0
    for instance in range(start, start + degree):
        count += state.member[group, instance]
    return count > 0


@routine
def _prefill(state: FleetState, part: int, degree: int, group: int) -> bool:
    """Prefills the first waiting requests of a part that has room for them; whether there are any."""
    integers, parameters = state.integers, state.parameters
    first = group_row(state, _FIRST) + part
    if integers[first] == 0:
        return False
    chosen = integers[request_row(state, _CHOSEN) :]
    forecast = integers[request_row(state, _FORECAST) :]
    forecast[0] = 0
    if group != NOBODY:
        forecast_group(state, forecast, group)
    sort_forecast(forecast)
    limit = int(parameters[MAX_REQUESTS]) - forecast[0]
    largest = 0
    for instance in range(part * degree, (part + 1) * degree):
        largest = max(largest, state.used[instance])
    count, tokens = 0, 0
    while count < limit and integers[first] > 0:
        request = integers[first] - 1
        length = prefill_tokens(state, request)
        held, rest = held_waiting(state, request), rest_waiting(state, request)
        tokens += length
        largest += (length + degree - 1) // degree
        if (
            (count > 0 and tokens > parameters[MAX_TOKENS])
            or largest > state.kv_tokens
            or peak_with(forecast, held, rest) > state.kv_tokens * degree
        ):
            break
        join_forecast(forecast, held, rest)
        chosen[count] = request
        count += 1
        integers[first] = integers[request_row(state, _NEXT) + request]
        integers[request_row(state, _NEXT) + request] = 0
    if count == 0:
        return False
    instances = integers[group_row(state, _INSTANCES) :]
    for rank in range(degree):
        instances[rank] = part * degree + rank
    integers[group_row(state, _NEWEST) + part] = prefill(state, chosen, count, instances, degree, 0.0, True)
    return True


@kernel
def _decode(state: FleetState, group: int, start: int, degree: int) -> bool:
    """One iteration with one master, where one has room."""
    most = 0
    for instance in range(start, start + degree):
        most = max(most, free_tokens(state, instance))
    if most < state.size[group]:
        return False
    added = 0
    for instance in range(start, start + degree):
        if not state.member[group, instance]:
            add_member(state, group, instance)
            added += 1
    decode(state, group, added, 0.0, UNLIMITED, False)
    return True


@kernel
def _join_front(state: FleetState, part: int, request: int) -> None:
    first = group_row(state, _FIRST) + part
    if state.integers[first] == 0:
        state.integers[group_row(state, _LAST) + part] = 1 + request
    state.integers[request_row(state, _NEXT) + request] = state.integers[first]
    state.integers[first] = 1 + request


@published(
    "elastic_manager",
    source="the baselines of Wu et al., LoongServe, SOSP 2024, in its public artifact",
    evidence=Evidence.CODE,
    complexity="O(G + N) an iteration, O(b (b + q)) for q requests that join b running ones",
)
def fixed_parallelism(
    degree: PositiveInt = 1,
    max_requests: PositiveInt = 1024,
    max_tokens: PositiveInt = 500_000,
    max_wait: NonNegativeInt = 10,
) -> Manager:
    """Instances of a part, which must divide their number, and limits of a part.

    `max_requests`: in its group. `max_tokens`: of more than one request in a prefill. `max_wait`: decode
    iterations between prefills.
    """

    def integers_for(num_instances: int, max_group: int, workload_requests: int) -> int:
        check_max_requests(max_requests, max_group)
        if num_instances % degree != 0:
            raise InputError(
                f"elastic_manager.degree = {degree}: must divide the number of instances, {num_instances}"
            )
        return integers_of_rows(max_requests, _NEXT, num_instances) + workload_requests

    return Manager(
        "fixed_parallelism",
        manage,
        np.array((max_requests, max_tokens, max_wait, degree), np.float64),
        integers_for=integers_for,
    )
