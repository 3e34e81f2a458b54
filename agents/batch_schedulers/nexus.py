"""Nexus: a plan says which models share a GPU, made anew as rates change; GPUs take turns over theirs.

Shen et al., "Nexus: A GPU Cluster Engine for Accelerating DNN-Based Video Analysis" (SOSP 2019), with the
constants of the code that Symphony's authors wrote for their comparison. Squishy bin packing gives each GPU
its models and their batch sizes (`squishy_bin_packing.py`). A GPU that is idle goes through its models in
turns and sends the first batch it can make, with early drop: requests too old for a batch of the size
planned are dropped. Rates are counted from beacon to beacon; the plan is made anew every epoch, or sooner
where some rate has left the planned one. Ours: a model's requests wait in one queue for all its GPUs, which
is kinder than Nexus's own dispatch, and GPUs left over repeat the plan.
"""

import math

import numpy as np

from servegym.agents.batch_schedulers.squishy_bin_packing import (
    ALONE,
    FIRST,
    NEXT,
    NUM_FULL,
    PACKING_COLUMNS,
    PLANNED_RPS,
    SIZE,
    pack,
    take_fullest,
)
from servegym.agents.parameters import NonNegativeFloat, PositiveFloat
from servegym.agents.published import Evidence, published
from servegym.costmodels.errors import InputError
from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.batch.actions import dispatch, set_timer
from servegym.envs.sim.batch.gathering import gather, took
from servegym.envs.sim.batch.min_tree import NONE, first_at_most_from
from servegym.envs.sim.batch.queues import first_idle, is_idle, now_s
from servegym.envs.sim.batch.scheduler import BatchScheduler, compiled_schedule
from servegym.envs.sim.batch.state import ACTIVE, ARRIVAL, FREED, NOBODY, ClusterState

_EPOCH_S, _LEAST_EPOCH_S, _BEACON_S, _WINDOW = range(4)
"""The parameters, the window in beacons."""

FEWER, MORE = 0.8, 1.1
"""A rate beyond these shares of the planned one calls for a new plan [the same code]."""

(
    _LENGTH,  # entries of the plan; 0 before the first
    _BEACON,  # number of the one that is due, 0 for none
    _PLANNED_S,  # when the plan was made
    _PLAN,  # from here on its entries: a model that fills a GPU, or num_models + a node
) = range(4)
"""Memory."""

(
    _FULL_FROM,  # first entry of GPUs it fills
    _FULL_TO,  # entry after the last of these
    _SHARED,  # entry of the node that has its session, NOBODY
    _RECENT,  # arrivals in the window
    _COUNTS,  # from here on arrivals by beacon that follows, in a ring
) = range(PACKING_COLUMNS, PACKING_COLUMNS + 5)
"""Memory of each model. That of a GPU: 1 + the model it served last, 0 in a new plan."""


@compiled_schedule
def schedule(state: ClusterState, event: int, subject: int) -> None:
    """Idle GPUs serve their models; no requests of theirs wait as long as they are idle."""
    if state.memory[_LENGTH] == 0:
        for model in range(state.num_models):
            state.model_memory[model, PLANNED_RPS] = 1.0
        _plan(state)
    if event == ARRIVAL:
        _count(state, subject)
        gpu = _first_idle_of(state, subject)
        if gpu != NONE:
            _serve(state, gpu)
    elif event == FREED:
        if is_idle(state, subject):
            _serve(state, subject)
    elif _beacon(state):
        gpu = first_idle(state)
        while gpu != NONE:
            _serve(state, gpu)
            gpu = first_at_most_from(state.idle, gpu + 1, 0.0)


@kernel
def _count(state: ClusterState, model: int) -> None:
    """Counts an arrival for the next beacon, and sets that where none is due."""
    if state.memory[_BEACON] == 0:
        beacon_s = state.parameters[_BEACON_S]
        number = math.floor(now_s(state) / beacon_s) + 1
        if number * beacon_s <= now_s(state):  # rounding
            number += 1
        _set_beacon(state, number)
    state.model_memory[model, _slot(state)] += 1
    state.model_memory[model, _RECENT] += 1


@kernel
def _slot(state: ClusterState) -> int:
    """Where arrivals for the beacon that is due are counted."""
    return _COUNTS + int(state.memory[_BEACON]) % int(state.parameters[_WINDOW])


@kernel
def _set_beacon(state: ClusterState, number: int) -> None:
    state.memory[_BEACON] = number
    set_timer(state, state.num_models, number * state.parameters[_BEACON_S])


@routine
def _beacon(state: ClusterState) -> bool:
    """Measures the rates; whether there is a new plan."""
    memory, parameters = state.memory, state.parameters
    window_s = min(memory[_BEACON], parameters[_WINDOW]) * parameters[_BEACON_S]
    arrived = 0.0
    is_off = False
    for model in range(state.num_models):
        row = state.model_memory[model]
        arrived += row[_RECENT]
        rate_rps = row[_RECENT] / window_s
        is_off = is_off or not FEWER * row[PLANNED_RPS] <= rate_rps <= MORE * row[PLANNED_RPS]
    if arrived == 0:
        memory[_BEACON] = 0
        return False
    age_s = now_s(state) - memory[_PLANNED_S]
    is_new = age_s >= parameters[_EPOCH_S] or (is_off and age_s >= parameters[_LEAST_EPOCH_S])
    if is_new:
        for model in range(state.num_models):
            state.model_memory[model, PLANNED_RPS] = state.model_memory[model, _RECENT] / window_s
        memory[_PLANNED_S] = now_s(state)
        _plan(state)
    _set_beacon(state, int(memory[_BEACON]) + 1)
    slot = _slot(state)
    for model in range(state.num_models):
        row = state.model_memory[model]
        row[_RECENT] -= row[slot]
        row[slot] = 0
    return is_new


@routine
def _plan(state: ClusterState) -> None:
    """Packs the models for the planned rates, and gives the GPUs entries: full ones first."""
    num_nodes = pack(state)
    room = 0
    for gpu in range(state.num_gpus):
        state.gpu_memory[gpu, 0] = 0
        if state.status[gpu] == ACTIVE:
            room += 1
    length = 0
    for model in range(state.num_models):
        row = state.model_memory[model]
        row[_FULL_FROM] = length
        while length < min(room, int(row[_FULL_FROM] + row[NUM_FULL])):
            state.memory[_PLAN + length] = model
            length += 1
        row[_FULL_TO] = length
        row[_SHARED] = NOBODY
    for _ in range(min(num_nodes, room - length)):
        node = take_fullest(state, num_nodes)
        member = int(state.model_memory[node, FIRST]) - 1
        while member != NOBODY:
            state.model_memory[member, _SHARED] = length
            member = int(state.model_memory[member, NEXT]) - 1
        state.memory[_PLAN + length] = state.num_models + node
        length += 1
    state.memory[_LENGTH] = length


@kernel
def _first_idle_of(state: ClusterState, model: int) -> int:
    """The first idle GPU that has a model, in the plan or where it repeats; NONE without one."""
    gpu = first_idle(state)
    if gpu == NONE:
        return NONE
    row, length = state.model_memory[model], int(state.memory[_LENGTH])
    for start in range(gpu - gpu % length, state.num_gpus, length):
        if row[_FULL_FROM] < row[_FULL_TO]:
            gpu = first_at_most_from(state.idle, start + int(row[_FULL_FROM]), 0.0)
            if gpu != NONE and gpu < start + row[_FULL_TO]:
                return gpu
        gpu = start + int(row[_SHARED])
        if row[_SHARED] != NOBODY and gpu < state.num_gpus and is_idle(state, gpu):
            return gpu
    return NONE


@kernel
def _serve(state: ClusterState, gpu: int) -> None:
    """Sends the first batch of the models of an idle GPU, in turns."""
    entry = int(state.memory[_PLAN + gpu % int(state.memory[_LENGTH])])
    if entry < state.num_models:
        _send(state, gpu, entry, int(state.model_memory[entry, ALONE]))
        return
    first = int(state.model_memory[entry - state.num_models, FIRST]) - 1
    last = first
    if state.gpu_memory[gpu, 0] > 0:
        last = int(state.gpu_memory[gpu, 0]) - 1
        model = _after(state, last, first)
    else:
        model = first
        while state.model_memory[last, NEXT] > 0:
            last = int(state.model_memory[last, NEXT]) - 1
    while not _send(state, gpu, model, int(state.model_memory[model, SIZE])) and model != last:
        model = _after(state, model, first)


@kernel
def _after(state: ClusterState, model: int, first: int) -> int:
    """The model whose turn is next in its node."""
    following = int(state.model_memory[model, NEXT])
    return following - 1 if following > 0 else first


@routine
def _send(state: ClusterState, gpu: int, model: int, target: int) -> bool:
    """Drops who is too old, and sends a batch if there is one left; whether there was."""
    size = gather(state, model, -math.inf, target)
    if size == 0:
        return False
    dispatch(state, model, gpu, size)
    took(state, model, size)
    state.gpu_memory[gpu, 0] = 1 + model
    return True


@published(
    "batch_scheduler",
    source="Shen et al., Nexus, SOSP 2019, and the code of Symphony's comparison",
    evidence=Evidence.PAPER,
    complexity="O(log G + s), s models on a GPU; O(M^2 + G) for a plan of M models on G GPUs",
)
def nexus(
    epoch_s: PositiveFloat = 30.0,
    least_epoch_s: NonNegativeFloat = 10.0,
    beacon_s: PositiveFloat = 1.0,
    window_s: PositiveFloat = 10.0,
) -> BatchScheduler:
    """The life of a plan, and the least where rates change; how often rates are measured, and over how long.

    `window_s` is taken in whole beacons.
    """
    window = round(window_s / beacon_s)
    if window < 1:
        raise InputError(f"batch_scheduler.window_s = {window_s}: must be at least beacon_s, {beacon_s}")
    return BatchScheduler(
        "nexus",
        schedule,
        np.array([epoch_s, least_epoch_s, beacon_s, window], np.float64),
        memory_size=_PLAN,
        memory_per_model=_COUNTS + window,
        memory_per_gpu=1,
        memory_for=lambda num_models, num_gpus: num_gpus,
    )
