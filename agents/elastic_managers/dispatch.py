"""LoongServe's dispatch: which waiting requests are prefilled now, in the place of running ones if that pays.

Wu et al. (SOSP 2024), section 5.1; `generate_new_req_list` of `router/req_queue.py` of their code. A request
is admitted where instances that could be made idle are nearly as fast as all; else, together with those
undecided so far, where what running requests lose by waiting is made good by what new ones gain."""

import numpy as np

from servegym.agents.elastic_managers.loongserve_state import (
    ADMITTED,
    DECODING_S,
    FORECAST,
    FORECAST_OF_ALL,
    MAX_PREFILL_S,
    OUT_OF_ORDER,
    SCALE_UP,
    SKIPS,
    UNDECIDED,
    prefill_on,
)
from servegym.agents.elastic_managers.workspace import MAX_REQUESTS, MAX_TOKENS, request_row
from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.elastic.fleet_use import requests_in_groups, used_tokens
from servegym.envs.sim.elastic.groups import prefill_tokens, tokens_out
from servegym.envs.sim.elastic.memory_test import (
    copy_forecast,
    forecast_group,
    held_waiting,
    join_forecast,
    peak_with,
    rest_waiting,
    sort_forecast,
)
from servegym.envs.sim.elastic.queue import first_waiting, next_waiting
from servegym.envs.sim.elastic.state import FINISHED_TOKENS, NOBODY, NUM_FINISHED, NUM_WAITING, FleetState

FIRST_FINISHED_TOKENS = 512
"""Output tokens of the request that counts as finished before any other [the same code]."""


@routine
def dispatch(state: FleetState) -> int:
    """Fills the row ADMITTED with the requests that are prefilled now; how many."""
    parameters, instances, pool = state.parameters, state.num_instances, state.kv_tokens
    running, limit = requests_in_groups(state), int(parameters[MAX_REQUESTS])
    if state.counters[NUM_WAITING] == 0 or running == limit:
        return 0
    used = used_tokens(state)
    capacity, room = instances * pool, instances * pool - used
    could_idle = instances - (used + pool - 1) // pool
    empty_room = _empty_instances(state) * pool
    slack_s, loss = _slack_s(state), _loss(state)
    max_tokens, max_prefill_s = parameters[MAX_TOKENS], parameters[MAX_PREFILL_S]
    scale_up = parameters[SCALE_UP] != 0
    may_skip = state.integers[SKIPS] < parameters[OUT_OF_ORDER]
    admitted = state.integers[request_row(state, ADMITTED) :]
    undecided = state.integers[request_row(state, UNDECIDED) :]
    forecast = state.integers[request_row(state, FORECAST) :]
    forecast_of_all = state.integers[request_row(state, FORECAST_OF_ALL) :]
    _forecast_groups(state, forecast)

    num_admitted, tokens, squares = 0, 0, 0
    num_undecided, more_tokens, more_squares, gain = 0, 0, 0, 0.0
    num_taken, taken_tokens = 0, 0
    is_open, is_last, is_ahead, has_passed = True, False, False, False
    too_long = 2**62  # once none joins the undecided: a length from which on none is admitted
    request = first_waiting(state)
    while request != NOBODY and running + num_admitted + num_taken < limit:
        length = prefill_tokens(state, request)
        held, rest = held_waiting(state, request), rest_waiting(state, request)
        new_tokens, new_squares = tokens + length, squares + length * length
        joins, waits = False, False
        if (
            length < too_long
            and new_tokens + taken_tokens <= room
            and (new_tokens <= max_tokens or num_admitted == 0)
            and (scale_up or new_tokens <= empty_room)
            and peak_with(forecast, held, rest) <= capacity
        ):
            if (num_undecided == 0 or may_skip) and new_tokens <= could_idle * pool:
                seconds = prefill_on(state, could_idle, new_tokens, new_squares)
                least_s = prefill_on(state, instances, new_tokens, new_squares)
                joins = seconds - least_s <= slack_s and (num_admitted == 0 or seconds <= max_prefill_s)
                is_last = is_last or (joins and seconds > max_prefill_s)
            all_tokens = new_tokens + more_tokens
            waits = (
                not joins
                and is_open
                and running + num_admitted + num_undecided < limit
                and all_tokens <= room
                and (all_tokens <= max_tokens or num_admitted + num_undecided == 0)
                and peak_with(forecast if num_undecided == 0 else forecast_of_all, held, rest) <= capacity
            )
            is_open = is_open and (joins or waits)
        if joins:
            is_ahead = is_ahead or has_passed or num_undecided > 0
            admitted[num_admitted] = request
            num_admitted += 1
            tokens, squares = new_tokens, new_squares
            join_forecast(forecast, held, rest)
            if num_undecided > 0:
                join_forecast(forecast_of_all, held, rest)
        elif waits:
            if num_undecided == 0:
                copy_forecast(forecast, forecast_of_all)
            join_forecast(forecast_of_all, held, rest)
            undecided[num_undecided] = request
            num_undecided += 1
            more_tokens += length
            more_squares += length * length
            gain += 1.0 / length
            stop_s = prefill_on(state, instances, tokens + more_tokens, squares + more_squares)
            alone = num_admitted + num_undecided == 1
            if stop_s * loss <= slack_s * gain and (alone or stop_s <= max_prefill_s):
                is_last = is_last or stop_s > max_prefill_s
                num_taken, taken_tokens = num_undecided, more_tokens
                copy_forecast(forecast_of_all, forecast)
        elif may_skip and not is_last:
            has_passed = True
            if not is_open and length < too_long:
                is_too_long = new_tokens + taken_tokens > room or (
                    num_admitted > 0 and new_tokens > max_tokens
                )
                if is_too_long or _takes_too_long(state, could_idle, new_tokens, new_squares, slack_s):
                    too_long = length
        else:
            break
        request = next_waiting(state, request)
    for at in range(num_taken):
        admitted[num_admitted + at] = undecided[at]
    num_admitted += num_taken
    if num_admitted > 0:
        state.integers[SKIPS] = state.integers[SKIPS] + 1 if is_ahead else 0
    return num_admitted


@kernel
def _takes_too_long(state: FleetState, could_idle: int, tokens: int, squares: int, slack_s: float) -> bool:
    """Whether a prefill of so many tokens or more, alone or not, is too slow without the running groups.

    By more than rounding, and where that grows with the tokens.
    """
    if tokens > could_idle * state.kv_tokens:
        return True
    few = state.cost.prefill_s[1 if could_idle > state.instances_per_node else 0, could_idle]
    every = state.cost.prefill_s[
        1 if state.num_instances > state.instances_per_node else 0, state.num_instances
    ]
    if few[1] < every[1] or few[2] < every[2]:
        return False
    seconds = prefill_on(state, could_idle, tokens, squares)
    lost_s = seconds - prefill_on(state, state.num_instances, tokens, squares)
    return bool(lost_s > slack_s + 1e-9 * seconds)


@kernel
def _empty_instances(state: FleetState) -> int:
    count = 0
    for instance in range(state.num_instances):
        if state.used[instance] == 0:
            count += 1
    return count


@kernel
def _slack_s(state: FleetState) -> float:
    """For how long running requests are expected to go on."""
    average = (FIRST_FINISHED_TOKENS + state.counters[FINISHED_TOKENS]) / (1 + state.counters[NUM_FINISHED])
    iterations = 10.0
    for group in range(state.size.size):
        for at in range(state.size[group]):
            out = tokens_out(state, state.requests[group, at])
            iterations = max(iterations, average - out, 0.1 * out)
    return float(state.parameters[DECODING_S] * iterations)


@kernel
def _loss(state: FleetState) -> float:
    """What running requests lose by waiting for a second, in output latency a token."""
    loss = 0.0
    for group in range(state.size.size):
        for at in range(state.size[group]):
            loss += 1.0 / tokens_out(state, state.requests[group, at])
    return loss


@kernel
def _forecast_groups(state: FleetState, forecast: np.ndarray) -> None:
    forecast[0] = 0
    for group in range(state.size.size):
        forecast_group(state, forecast, group)
    sort_forecast(forecast)
