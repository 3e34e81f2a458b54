"""An elastic fleet through time: what happens next, and when the manager is called."""

import math

from servegym.costmodels.native.calls import call_at, call_back
from servegym.costmodels.native.jit import jit, kernel
from servegym.envs.sim.elastic.accrual import LATE, accrue, charge_arrival, charge_first_token
from servegym.envs.sim.elastic.actions import fail
from servegym.envs.sim.elastic.groups import count_steps_to_finish, end_finished, release_members, settle
from servegym.envs.sim.elastic.queue import join_back
from servegym.envs.sim.elastic.state import (
    DECODES,
    ERROR_CODE,
    NEXT_ARRIVAL,
    NO_ERROR,
    NOBODY,
    NUM_FINISHED,
    NUM_REJECTED,
    NUM_REQUESTS,
    PAUSED,
    PYTHON_ERROR,
    REJECTED,
    RESTS,
    WAITING,
    FleetState,
)


@jit
def run(state: FleetState) -> bool:
    """Goes on until a manager pauses it (`PAUSED`, cleared here) or all is over; whether it is over."""
    state.counters[PAUSED] = 0
    while True:
        if state.error[ERROR_CODE] != NO_ERROR:
            return True
        if state.counters[PAUSED]:
            return False
        if not _happen(state):
            return True


@kernel
def _happen(state: FleetState) -> bool:
    """All of the next instant; False where there is none."""
    counters = state.counters
    if counters[NUM_FINISHED] + counters[NUM_REJECTED] == counters[NUM_REQUESTS]:
        return False
    now_s = math.inf
    if counters[NEXT_ARRIVAL] < counters[NUM_REQUESTS]:
        now_s = state.arrival_s[counters[NEXT_ARRIVAL]]
    for instance in range(state.num_instances):
        group = state.runs_for[instance]
        if group != NOBODY:
            now_s = min(now_s, state.end_s[group])
    if now_s == math.inf:
        return False
    accrue(state, now_s - state.clock[0])
    state.clock[0] = now_s
    for group in range(state.size.size):
        if state.end_s[group] == now_s:
            _end(state, group)
    while (
        counters[NEXT_ARRIVAL] < counters[NUM_REQUESTS] and state.arrival_s[counters[NEXT_ARRIVAL]] == now_s
    ):
        _arrive(state)
    if state.callback:
        if call_back(state.callback, 0, 0):
            fail(state, PYTHON_ERROR, NOBODY, NOBODY, NOBODY)
    else:
        call_at(state.manage, (state,))
    return True


@kernel
def _arrive(state: FleetState) -> None:
    request = state.counters[NEXT_ARRIVAL]
    state.counters[NEXT_ARRIVAL] += 1
    if state.prompt[request] + state.output[request] > state.num_instances * state.kv_tokens:
        state.fate[request] = REJECTED
        state.counters[NUM_REJECTED] += 1
        state.costs[LATE] += 1
    else:
        state.fate[request] = WAITING
        charge_arrival(state, request)
        join_back(state, request)


@kernel
def _end(state: FleetState, group: int) -> None:
    """The iteration of a group ends."""
    now_s = state.clock[0]
    state.end_s[group] = math.inf
    decoded = state.activity[group] == DECODES
    state.activity[group] = RESTS
    for instance in range(state.num_instances):
        if state.runs_for[instance] == group:
            state.runs_for[instance] = NOBODY
    if decoded:
        state.steps[group] += 1
        if state.steps[group] == state.steps_to_finish[group]:
            settle(state, group)
            end_finished(state, group, now_s)
    else:
        for at in range(state.size[group]):
            request = state.requests[group, at]
            state.produced[request] += 1
            if math.isnan(state.first_token_s[request]):
                state.first_token_s[request] = now_s
                charge_first_token(state, request)
        count_steps_to_finish(state, group)
        if state.steps_to_finish[group] == 0:
            end_finished(state, group, now_s)
    release_members(state, group)
