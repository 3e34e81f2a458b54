"""What a scheduler can do: dispatch, drop, set a timer, preempt. docs/batch_serving.md, "Actions".

An action that is not allowed does nothing but end the simulation, with an error.
"""

import math

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.batch.memory import ready_s
from servegym.envs.sim.batch.min_tree import set_key
from servegym.envs.sim.batch.queues import arrival_of, has_room, lead_s, num_waiting
from servegym.envs.sim.batch.state import (
    ACTIVE,
    DISPATCH_GPU,
    DISPATCH_SIZE,
    DROP_SIZE,
    ENERGY,
    ERROR_CODE,
    ERROR_GPU,
    ERROR_MODEL,
    ERROR_SIZE,
    INACTIVE,
    LAST_ACTION,
    NO_ERROR,
    NOBODY,
    NOW,
    NUM_BAD,
    NUM_BATCHES,
    NUM_DROPPED,
    NUM_ENDED,
    NUM_FREE_ROWS,
    NUM_PREEMPTED,
    NUM_ROWS,
    PAUSED,
    PREEMPT_GPU,
    STARTING,
    ClusterState,
)

GRACE_S = 1e-9
"""How far a batch may end past a deadline for rounding."""


@routine
def fail(state: ClusterState, code: int, model: int, gpu: int, size: int) -> None:
    """Ends the simulation."""
    if state.error[ERROR_CODE] == NO_ERROR:
        state.error[ERROR_CODE] = code
        state.error[ERROR_MODEL] = model
        state.error[ERROR_GPU] = gpu
        state.error[ERROR_SIZE] = size
    state.counters[PAUSED] = 1


@routine
def dispatch(state: ClusterState, model: int, gpu: int, size: int) -> None:
    """The first `size` requests of a queue leave it as a batch for a GPU."""
    if not 1 <= size <= min(num_waiting(state, model), state.max_batch[model]):
        fail(state, DISPATCH_SIZE, model, gpu, size)
        return
    if not (0 <= gpu < state.num_gpus and has_room(state, gpu)):
        fail(state, DISPATCH_GPU, model, gpu, size)
        return
    start_s = max(state.clock[NOW] + lead_s(state, size), state.free_at_s[gpu])
    if state.has_limited_memory:
        start_s = max(start_s, ready_s(state, gpu, model))
    end_s = start_s + state.latency_s[model, size]
    num_bad = 0
    while (
        num_bad < size
        and end_s > arrival_of(state, model, num_bad) + state.slo_s[model] - state.response_s + GRACE_S
    ):
        num_bad += 1
    row = _new_row(state)
    batch = state.batches[row]
    batch.start_s = start_s
    batch.end_s = end_s
    batch.model = model
    batch.gpu = gpu
    batch.num_requests = size
    batch.num_bad = num_bad
    head = state.head[model]
    batch.first = state.queue[head]
    for place in range(size):
        request = state.queue[head + place]
        state.batch_of[request] = row
        state.next_in_batch[request] = state.queue[head + place + 1] if place + 1 < size else NOBODY
    state.head[model] = head + size
    state.holds[gpu, state.held[gpu]] = row
    state.held[gpu] += 1
    state.free_at_s[gpu] = end_s
    state.clock[ENERGY] += state.energy_j[model, size]
    state.clock[LAST_ACTION] = state.clock[NOW]
    state.counters[NUM_BATCHES] += 1
    show_gpu(state, gpu)


@routine
def drop(state: ClusterState, model: int, count: int) -> None:
    """The first `count` requests of a queue leave it, dropped."""
    if not 0 <= count <= num_waiting(state, model):
        fail(state, DROP_SIZE, model, NOBODY, count)
        return
    for _ in range(count):
        state.drop_s[state.queue[state.head[model]]] = state.clock[NOW]
        state.head[model] += 1
    state.counters[NUM_ENDED] += count
    state.counters[NUM_BAD] += count
    state.counters[NUM_DROPPED] += count
    state.clock[LAST_ACTION] = state.clock[NOW]


@kernel
def set_timer(state: ClusterState, timer: int, at_s: float) -> None:
    """Timer 0, 1, ... of the models, or `num_models`, the scheduler's own; inf clears it."""
    set_key(state.timers, timer, max(at_s, state.clock[NOW]))


@routine
def preempt(state: ClusterState, gpu: int) -> None:
    """The one batch of a GPU ends now, and its requests wait again."""
    if not (0 <= gpu < state.num_gpus and state.held[gpu] == 1):
        fail(state, PREEMPT_GPU, NOBODY, gpu, 0)
        return
    row = state.holds[gpu, 0]
    batch = state.batches[row]
    model = batch.model
    head = state.head[model] - batch.num_requests  # where its requests came from there is room for them
    waiting = state.head[model]
    back = batch.first
    place = head
    while back != NOBODY:  # both are in order of arrival; they stay so
        if waiting < state.tail[model] and state.queue[waiting] < back:
            state.queue[place] = state.queue[waiting]
            waiting += 1
        else:
            state.queue[place] = back
            state.batch_of[back] = NOBODY
            back = state.next_in_batch[back]
        place += 1
    state.head[model] = head
    state.clock[ENERGY] -= state.energy_j[model, batch.num_requests]
    state.free_rows[state.counters[NUM_FREE_ROWS]] = row
    state.counters[NUM_FREE_ROWS] += 1
    state.counters[NUM_BATCHES] -= 1
    state.counters[NUM_PREEMPTED] += 1
    state.held[gpu] = 0
    state.free_at_s[gpu] = state.clock[NOW]
    state.clock[LAST_ACTION] = state.clock[NOW]
    if state.status[gpu] == INACTIVE:
        release(state, gpu)
    show_gpu(state, gpu)


@kernel
def release(state: ClusterState, gpu: int) -> None:
    """A GPU is in use no more."""
    state.used_s[gpu] += state.clock[NOW] - state.used_from_s[gpu]
    state.used_from_s[gpu] = math.nan


@kernel
def show_gpu(state: ClusterState, gpu: int) -> None:
    """Brings the trees over GPUs up to date with one."""
    active = state.status[gpu] == ACTIVE
    next_s = math.inf
    if state.held[gpu] > 0:
        next_s = state.batches[state.holds[gpu, 0]].end_s
    if state.status[gpu] == STARTING:
        next_s = min(next_s, state.starts_at_s[gpu])
    set_key(state.next_free, gpu, next_s)
    set_key(state.with_room, gpu, state.free_at_s[gpu] if active and state.held[gpu] < 2 else math.inf)
    set_key(state.idle, gpu, 0.0 if active and state.held[gpu] == 0 else math.inf)


@kernel
def _new_row(state: ClusterState) -> int:
    if state.counters[NUM_FREE_ROWS] > 0:
        state.counters[NUM_FREE_ROWS] -= 1
        return state.free_rows[state.counters[NUM_FREE_ROWS]]
    state.counters[NUM_ROWS] += 1
    return state.counters[NUM_ROWS] - 1
