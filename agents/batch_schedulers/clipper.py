"""Clipper: each model on GPUs of its own, its batches found by additive increase, multiplicative decrease.

Crankshaw et al., "Clipper: A Low-Latency Online Prediction Serving System" (NSDI 2017). A copy of a model on
a GPU has a largest batch: a full one that was in time raises it by `increase`, one that took too long lowers
it to the share `backoff`. Whatever waits is sent as soon as the GPU is idle. Requests past their deadline get
a default answer, here: they are dropped. Where GPUs are fewer than models they are shared, oldest request
first, which is ours, as is the static placement.
"""

from typing import Annotated

import numpy as np

from servegym.agents.parameters import PositiveFloat, within
from servegym.agents.published import Evidence, published
from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.batch.actions import dispatch, drop
from servegym.envs.sim.batch.min_tree import NONE
from servegym.envs.sim.batch.queues import (
    arrival_of,
    deadline_of,
    first_idle,
    is_idle,
    lead_s,
    now_s,
    num_waiting,
)
from servegym.envs.sim.batch.scheduler import BatchScheduler, compiled_schedule
from servegym.envs.sim.batch.state import ARRIVAL, FREED, NOBODY, ClusterState

_INCREASE, _BACKOFF = range(2)


@compiled_schedule
def schedule(state: ClusterState, event: int, subject: int) -> None:
    """Serves the models of a GPU that is idle.

    memory: the cap of each pair of model and GPU, see `_pair`; 0 before its first batch. Of a GPU: whether a
    batch has been sent whose end is still to come.
    """
    if event == FREED:
        if state.gpu_memory[subject, 0] > 0 and state.held[subject] == 0:
            state.gpu_memory[subject, 0] = 0
            _adapt(state, subject)
        if is_idle(state, subject):
            _serve(state, subject)
    elif event == ARRIVAL and first_idle(state) != NONE:
        # As long as a GPU is idle no other request of its models waits.
        for gpu in range(subject % state.num_gpus, state.num_gpus, state.num_models):
            if is_idle(state, gpu):
                _serve(state, gpu)
                return


@kernel
def _pair(state: ClusterState, model: int, gpu: int) -> int:
    """The number of a model on a GPU: where models are more each has one GPU, else each GPU has one model."""
    return model if state.num_models > state.num_gpus else gpu


@kernel
def _cap(state: ClusterState, model: int, gpu: int) -> float:
    cap: float = state.memory[_pair(state, model, gpu)]
    return max(1.0, cap)


@kernel
def _adapt(state: ClusterState, gpu: int) -> None:
    """Changes the cap by the batch that has ended."""
    batch = state.batches[state.last_ended[gpu]]
    model = batch.model
    cap = _cap(state, model, gpu)
    if batch.end_s - batch.start_s > state.slo_s[model] - state.response_s - lead_s(
        state, batch.num_requests
    ):
        cap = max(1.0, state.parameters[_BACKOFF] * cap)
    elif batch.num_requests == int(cap):
        cap = min(float(state.max_batch[model]), cap + state.parameters[_INCREASE])
    state.memory[_pair(state, model, gpu)] = cap


@kernel
def _serve(state: ClusterState, gpu: int) -> None:
    """The GPU takes the model of its own whose first request is the oldest."""
    oldest = NOBODY
    for model in range(gpu % state.num_models, state.num_models, state.num_gpus):
        late = 0
        while late < num_waiting(state, model) and deadline_of(state, model, late) < now_s(state):
            late += 1
        drop(state, model, late)
        if num_waiting(state, model) > 0 and (
            oldest == NOBODY or arrival_of(state, model, 0) < arrival_of(state, oldest, 0)
        ):
            oldest = model
    if oldest != NOBODY:
        cap = int(_cap(state, oldest, gpu))
        dispatch(state, oldest, gpu, min(num_waiting(state, oldest), cap, state.max_batch[oldest]))
        state.gpu_memory[gpu, 0] = 1


@published(
    "batch_scheduler",
    source='Crankshaw et al., "Clipper: A Low-Latency Online Prediction Serving System", NSDI 2017',
    evidence=Evidence.PAPER,
    complexity="O(M / G + G / M + log G), O(1) for an arrival while all GPUs are busy",
)
def clipper(increase: PositiveFloat = 1.0, backoff: Annotated[float, within(0, 1)] = 0.9) -> BatchScheduler:
    """What a full batch in time adds to the cap, and what share of it one that takes too long leaves."""
    return BatchScheduler(
        "clipper",
        schedule,
        np.array([increase, backoff], np.float64),
        memory_per_gpu=1,
        memory_for=max,
    )
