"""Clockwork: of all models the batch that must start first, in one of a few sizes.

Gujarati et al., "Serving DNNs like Clockwork: Performance Predictability from the Bottom Up" (OSDI 2020). Its
controller orders the batches that would be in time by the latest instant at which they may start, for each
model the largest of the compiled sizes, and drops requests that no batch would serve in time. A GPU gets a
batch as soon as it is idle, so batches are as large as the queues that have built up while all were busy. Its
loading of models is left to the GPUs' memory of the simulator.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

import numpy as np

from servegym.agents.batch_schedulers.deadlines import expire, is_feasible
from servegym.agents.parameters import Allowed
from servegym.agents.published import Evidence, published
from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.batch.actions import dispatch
from servegym.envs.sim.batch.min_tree import NONE
from servegym.envs.sim.batch.queues import deadline_of, first_idle, num_waiting
from servegym.envs.sim.batch.scheduler import BatchScheduler, compiled_schedule
from servegym.envs.sim.batch.state import ARRIVAL, NOBODY, ClusterState


@compiled_schedule
def schedule(state: ClusterState, event: int, subject: int) -> None:
    """Gives idle GPUs the batch that must start first; parameters: the sizes."""
    first, end = 0, state.num_models
    if event == ARRIVAL:  # as long as a GPU is idle nobody else waits
        first, end = subject, subject + 1
    gpu = first_idle(state)
    while gpu != NONE:
        model = _most_urgent(state, first, end)
        if model == NOBODY:
            return
        dispatch(state, model, gpu, _size(state, model))
        gpu = first_idle(state)


@kernel
def _most_urgent(state: ClusterState, first: int, end: int) -> int:
    """Of the models from `first` to before `end` the one that must start first; NOBODY without one."""
    chosen = NOBODY
    chosen_s = math.inf
    for model in range(first, end):
        if num_waiting(state, model) > 0:
            expire(state, model)
        if num_waiting(state, model) > 0:
            latest_s = deadline_of(state, model, 0) - state.latency_s[model, _size(state, model)]
            if chosen == NOBODY or latest_s < chosen_s:
                chosen, chosen_s = model, latest_s
    return chosen


@kernel
def _size(state: ClusterState, model: int) -> int:
    """The largest feasible one of the sizes that the queue fills; 1 is."""
    most = min(num_waiting(state, model), state.max_batch[model])
    best = 1
    for size in state.parameters:
        if size > most or not is_feasible(state, model, int(size)):
            break
        best = int(size)
    return best


def _ascend_from_one(sizes: Sequence[Any]) -> bool:
    return (
        len(sizes) > 0
        and sizes[0] == 1
        and all(int(size) == size for size in sizes)
        and all(low < high for low, high in pairwise(sizes))
    )


@published(
    "batch_scheduler",
    source='Gujarati et al., "Serving DNNs like Clockwork", OSDI 2020',
    evidence=Evidence.READING,
    complexity="O(M + log G) for M models and G GPUs, O(1) while all GPUs are busy",
)
def clockwork(
    sizes: Annotated[Sequence[int], Allowed(_ascend_from_one, "whole numbers that ascend from 1")] = (
        1,
        2,
        4,
        8,
        16,
    ),
) -> BatchScheduler:
    """The batch sizes that models are compiled for."""
    return BatchScheduler("clockwork", schedule, np.array(sizes, np.float64))
