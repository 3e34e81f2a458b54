"""GPUs that come and go: the signal an autoscaler gets, and what follows from its answer."""

import math

from servegym.costmodels.native.calls import call_at, call_back
from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.batch import autoscaler
from servegym.envs.sim.batch.actions import fail, release, show_gpu
from servegym.envs.sim.batch.staggered import target_batch
from servegym.envs.sim.batch.state import (
    ACTIVE,
    INACTIVE,
    NEXT_ARRIVAL,
    NEXT_SCALE,
    NOBODY,
    NOW,
    NUM_ACTIVE,
    NUM_BAD,
    NUM_ENDED,
    NUM_REQUESTS,
    PYTHON_ERROR,
    SCALE_RANGE,
    STARTING,
    ClusterState,
)


@routine
def ask_autoscaler(state: ClusterState) -> None:
    """Calls it, starts and stops GPUs, and sets the time of its next call."""
    _write_signal(state)
    if state.scale_callback:
        if call_back(state.scale_callback, 0, 0):
            fail(state, PYTHON_ERROR, NOBODY, NOBODY, 0)
            return
    else:
        call_at(state.scale, (state.signal, state.scale_parameters, state.scale_memory, state.wanted))
    wanted = state.wanted[0]
    if not 1 <= wanted <= state.num_gpus:
        fail(state, SCALE_RANGE, NOBODY, NOBODY, wanted)
        return
    for gpu in range(state.counters[NUM_ACTIVE], wanted):
        _start(state, gpu)
    for gpu in range(wanted, state.counters[NUM_ACTIVE]):
        _stop(state, gpu)
    state.counters[NUM_ACTIVE] = wanted
    calls = math.floor(state.clock[NEXT_SCALE] / state.every_s + 0.5)
    state.clock[NEXT_SCALE] = (calls + 1) * state.every_s  # not a sum, which would drift


@kernel
def _write_signal(state: ClusterState) -> None:
    signal = state.signal
    signal[autoscaler.NOW_S] = state.clock[NOW]
    signal[autoscaler.NUM_ACTIVE] = state.counters[NUM_ACTIVE]
    signal[autoscaler.WINDOW_S] = state.every_s
    signal[autoscaler.NUM_ENDED] = state.counters[NUM_ENDED] - state.ended_before[0]
    signal[autoscaler.NUM_BAD] = state.counters[NUM_BAD] - state.ended_before[1]
    busy_s = 0.0
    for gpu in range(state.num_gpus):
        busy_s += state.busy_s[gpu]
    signal[autoscaler.BUSY_S] = busy_s - state.busy_before_s[0]
    arrived = 0
    required_s = 0.0
    for model in range(state.num_models):
        count = state.arrived[model]
        state.arrived[model] = 0
        if count > 0:
            size = target_batch(state, model, count / state.every_s)
            arrived += count
            required_s += count * state.latency_s[model, size] / size
    signal[autoscaler.NUM_ARRIVED] = arrived
    signal[autoscaler.REQUIRED_S] = required_s
    state.ended_before[0] = state.counters[NUM_ENDED]
    state.ended_before[1] = state.counters[NUM_BAD]
    state.busy_before_s[0] = busy_s


@kernel
def _start(state: ClusterState, gpu: int) -> None:
    state.status[gpu] = STARTING
    state.starts_at_s[gpu] = state.clock[NOW] + state.startup_s
    if math.isnan(state.used_from_s[gpu]):
        state.used_from_s[gpu] = state.clock[NOW]
    show_gpu(state, gpu)


@kernel
def _stop(state: ClusterState, gpu: int) -> None:
    state.status[gpu] = INACTIVE
    if state.held[gpu] == 0:
        release(state, gpu)
    show_gpu(state, gpu)


@kernel
def activate(state: ClusterState, gpu: int) -> None:
    """A GPU has started."""
    state.status[gpu] = ACTIVE
    state.free_at_s[gpu] = max(state.clock[NOW], state.free_at_s[gpu])


@kernel
def scaling_is_due(state: ClusterState) -> bool:
    """Whether requests are still to come, for whom GPUs may be needed."""
    return state.counters[NEXT_ARRIVAL] < state.counters[NUM_REQUESTS]
