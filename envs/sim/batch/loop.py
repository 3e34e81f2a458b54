"""A cluster through time: what happens next, and when the scheduler is called."""

import math

from servegym.costmodels.native.calls import call_at, call_back
from servegym.costmodels.native.jit import jit, kernel
from servegym.envs.sim.batch.actions import fail, release, show_gpu
from servegym.envs.sim.batch.min_tree import first_smallest, set_key, smallest_key
from servegym.envs.sim.batch.scaling import activate, ask_autoscaler, scaling_is_due
from servegym.envs.sim.batch.state import (
    ARRIVAL,
    ERROR_CODE,
    FREED,
    INACTIVE,
    LAST_ACTION,
    NEXT_ARRIVAL,
    NEXT_SCALE,
    NO_ERROR,
    NOBODY,
    NOW,
    NUM_BAD,
    NUM_ENDED,
    NUM_REQUESTS,
    PAUSED,
    PYTHON_ERROR,
    STARTING,
    TIMER,
    TIMERS_AT_ONCE,
    TIMERS_STAND_STILL,
    ClusterState,
)

PATIENCE_S = 100.0
"""After the last arrival, a simulation in which nothing runs waits so long for a timer to do something."""

MOST_TIMERS_AT_ONCE = 1_000_000


@jit
def run(state: ClusterState) -> bool:
    """Goes on until a scheduler pauses it (`PAUSED`, cleared here) or all is over; whether it is over."""
    state.counters[PAUSED] = 0
    while True:
        if state.error[ERROR_CODE] != NO_ERROR:
            return True
        if state.counters[PAUSED]:
            return False
        if not _happen(state):
            return True


@kernel
def _happen(state: ClusterState) -> bool:
    """The next event; False where there is none."""
    counters, clock = state.counters, state.clock
    if counters[NUM_ENDED] == counters[NUM_REQUESTS]:
        return False
    arrival_s = math.inf
    if counters[NEXT_ARRIVAL] < counters[NUM_REQUESTS]:
        arrival_s = state.arrival_s[counters[NEXT_ARRIVAL]]
    freed_s = smallest_key(state.next_free)
    timer_s = smallest_key(state.timers)
    next_s = min(arrival_s, freed_s, timer_s)
    if clock[NEXT_SCALE] <= next_s and scaling_is_due(state):
        clock[NOW] = clock[NEXT_SCALE]
        ask_autoscaler(state)
        return True
    if next_s == math.inf:
        return False
    if arrival_s == math.inf and freed_s == math.inf:
        last_s = max(clock[LAST_ACTION], state.arrival_s[counters[NUM_REQUESTS] - 1])
        if next_s > last_s + PATIENCE_S:
            return False
    if next_s > clock[NOW]:
        counters[TIMERS_AT_ONCE] = 0
    clock[NOW] = next_s
    if freed_s == next_s:
        _free(state, first_smallest(state.next_free))
    elif arrival_s == next_s:
        _arrive(state)
    else:
        timer = first_smallest(state.timers)
        set_key(state.timers, timer, math.inf)
        counters[TIMERS_AT_ONCE] += 1
        if counters[TIMERS_AT_ONCE] > MOST_TIMERS_AT_ONCE:
            fail(state, TIMERS_STAND_STILL, timer, NOBODY, 0)
        _tell(state, TIMER, timer)
    return True


@kernel
def _free(state: ClusterState, gpu: int) -> None:
    """A batch of a GPU ends, or it has started, or both."""
    clock, counters = state.clock, state.counters
    if state.held[gpu] > 0:
        row = state.holds[gpu, 0]
        batch = state.batches[row]
        if batch.end_s <= clock[NOW]:
            state.busy_s[gpu] += batch.end_s - batch.start_s
            counters[NUM_ENDED] += batch.num_requests
            counters[NUM_BAD] += batch.num_bad
            clock[LAST_ACTION] = clock[NOW]
            state.last_ended[gpu] = row
            state.holds[gpu, 0] = state.holds[gpu, 1]
            state.held[gpu] -= 1
            if state.held[gpu] == 0 and state.status[gpu] == INACTIVE:
                release(state, gpu)
    if state.status[gpu] == STARTING and state.starts_at_s[gpu] <= clock[NOW]:
        activate(state, gpu)
    show_gpu(state, gpu)
    _tell(state, FREED, gpu)


@kernel
def _arrive(state: ClusterState) -> None:
    request = state.counters[NEXT_ARRIVAL]
    state.counters[NEXT_ARRIVAL] += 1
    model = state.model[request]
    state.queue[state.tail[model]] = request
    state.tail[model] += 1
    state.arrived[model] += 1
    _tell(state, ARRIVAL, model)


@kernel
def _tell(state: ClusterState, event: int, subject: int) -> None:
    """Calls the scheduler."""
    if state.callback:
        if call_back(state.callback, event, subject):
            fail(state, PYTHON_ERROR, NOBODY, NOBODY, 0)
    else:
        call_at(state.schedule, (state, event, subject))
