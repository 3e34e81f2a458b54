"""Shepherd: the largest batch first, and a running batch gives way to one three times as large.

Zhang et al., "SHEPHERD: Serving DNNs in the Wild" (NSDI 2023), its online algorithm FLEX, as the authors of
Symphony wrote it for their comparison. A GPU that becomes free gets, of all models, the largest batch that
would be in time. A request that finds all GPUs busy makes the first of them start anew on the batch of its
model, if that is `preempt_ratio` times as large as the one there; those of the batch that was running wait
again. Requests that no batch would serve in time are dropped.
"""

import math
from typing import Annotated

import numpy as np

from servegym.agents.batch_schedulers.deadlines import expire, is_feasible, largest_feasible
from servegym.agents.parameters import above
from servegym.agents.published import Evidence, published
from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.batch.actions import dispatch, preempt
from servegym.envs.sim.batch.min_tree import NONE, first_at_most_from, new_tree, set_key, smallest_key
from servegym.envs.sim.batch.queues import (
    deadline_of,
    end_if_sent,
    first_idle,
    is_idle,
    num_waiting,
)
from servegym.envs.sim.batch.scheduler import BatchScheduler, compiled_schedule
from servegym.envs.sim.batch.state import ACTIVE, ARRIVAL, FREED, NOBODY, ClusterState

ROUNDING = 1e-9


@compiled_schedule
def schedule(state: ClusterState, event: int, subject: int) -> None:
    """Free GPUs get the largest batch, new requests perhaps a GPU that is not free; parameter: the ratio.

    memory: a tree over GPUs, the size of the batch that each runs.
    """
    sizes = state.memory
    if sizes[0] == 0:  # no item of the tree
        sizes[:] = math.inf
    if event == FREED:
        if state.held[subject] == 0:
            set_key(sizes, subject, math.inf)
        if is_idle(state, subject):
            model = _model_of_largest(state)
            if model != NOBODY:
                _send(state, model, subject)
    elif event == ARRIVAL:
        expire(state, subject)
        if num_waiting(state, subject) > 0:
            gpu = first_idle(state)
            if gpu == NONE:
                gpu = _to_preempt(state, subject)
                if gpu != NONE:
                    preempt(state, gpu)
                    expire(state, subject)
            if gpu != NONE:
                _send(state, subject, gpu)


@kernel
def _send(state: ClusterState, model: int, gpu: int) -> None:
    size = _best(state, model)
    dispatch(state, model, gpu, size)
    set_key(state.memory, gpu, size)


@kernel
def _best(state: ClusterState, model: int) -> int:
    """The largest batch in time of a queue that has expired and is not empty."""
    return largest_feasible(state, model, min(num_waiting(state, model), state.max_batch[model]))


@kernel
def _model_of_largest(state: ClusterState) -> int:
    """The model with the largest batch in time; NOBODY where nobody waits."""
    chosen = NOBODY
    most = 0
    for model in range(state.num_models):
        if num_waiting(state, model) > 0:
            expire(state, model)
        if min(num_waiting(state, model), state.max_batch[model]) > most and is_feasible(
            state, model, most + 1
        ):
            chosen, most = model, _best(state, model)
    return chosen


@kernel
def _to_preempt(state: ClusterState, model: int) -> int:
    """The first GPU whose batch gives way to one of this model; NONE without one."""
    ratio = state.parameters[0]
    sizes = state.memory
    waiting = num_waiting(state, model)
    # What gives way to `waiting`, or to these and itself, and to the largest batch there may be.
    limit = min(waiting / (ratio - 1), state.max_batch[model] / ratio) + ROUNDING
    if smallest_key(sizes) > limit:
        return NONE
    best = _best(state, model)
    if best < waiting:  # no larger one is in time, either
        limit = min(limit, best / ratio + ROUNDING)
    gpu = first_at_most_from(sizes, 0, limit)
    while gpu != NONE:
        if state.status[gpu] == ACTIVE:
            batch = state.batches[state.holds[gpu, 0]]
            if batch.model != model:
                if best >= ratio * batch.num_requests:
                    return gpu
            elif _outgrows_itself(state, gpu):
                return gpu
        gpu = first_at_most_from(sizes, gpu + 1, limit)
    return NONE


@kernel
def _outgrows_itself(state: ClusterState, gpu: int) -> bool:
    """Whether the batch of a GPU and the queue of its model together would make one large enough."""
    batch = state.batches[state.holds[gpu, 0]]
    model = batch.model
    together = num_waiting(state, model) + batch.num_requests
    alone_s = end_if_sent(state, model, 1, -math.inf)
    request = batch.first
    while request != NOBODY and alone_s > _deadline_s(state, request):
        request = state.next_in_batch[request]
        together -= 1
    deadline_s = deadline_of(state, model, 0)
    if request != NOBODY:
        deadline_s = min(deadline_s, _deadline_s(state, request))
    size = math.ceil(state.parameters[0] * batch.num_requests)
    return (
        size <= min(together, state.max_batch[model])
        and end_if_sent(state, model, size, -math.inf) <= deadline_s
    )


@kernel
def _deadline_s(state: ClusterState, request: int) -> float:
    deadline_s: float = state.arrival_s[request] + state.slo_s[state.model[request]] - state.response_s
    return deadline_s


@published(
    "batch_scheduler",
    source='Zhang et al., "SHEPHERD: Serving DNNs in the Wild", NSDI 2023, and the code of Symphony',
    evidence=Evidence.CODE,
    complexity="O(M + log B + log G) for a free GPU, O(log G) for most arrivals",
)
def shepherd(preempt_ratio: Annotated[float, above(1)] = 3.03) -> BatchScheduler:
    """How many times as large a batch must be for a running one to give way."""
    return BatchScheduler(
        "shepherd",
        schedule,
        np.array([preempt_ratio], np.float64),
        memory_for=lambda num_models, num_gpus: new_tree(num_gpus).size,
    )
