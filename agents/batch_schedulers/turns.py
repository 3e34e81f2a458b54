"""Models in turns, each when its queue fills a batch or its first request has waited long enough.

What the dynamic batchers of inference servers share. docs/batch_serving.md, "TF-Serving" and "Triton".
"""

import math
from collections.abc import Sequence

import numpy as np

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.batch.actions import dispatch, set_timer
from servegym.envs.sim.batch.min_tree import NONE, smallest_key
from servegym.envs.sim.batch.queues import arrival_of, first_idle, now_s, num_waiting
from servegym.envs.sim.batch.scheduler import BatchScheduler, compiled_schedule
from servegym.envs.sim.batch.state import ARRIVAL, FREED, NOBODY, ClusterState

_MAX_BATCH, _WAIT_S, _PREFERRED = range(3)
"""The parameters; sizes that are preferred, ascending, are all from the last on."""

_HAS_BEGUN, _NEXT = range(2)
"""Memory: the second is the model whose turn it is."""

_LARGEST, _FULL = range(2)
"""Memory of each model: its largest batch, and how many waiting make it ready."""


@compiled_schedule
def schedule(state: ClusterState, event: int, subject: int) -> None:
    """Gives idle GPUs the models that are ready."""
    if state.memory[_HAS_BEGUN] == 0:
        _begin(state)
    if event == ARRIVAL and num_waiting(state, subject) == 1:
        _set_timer(state, subject)
    due = event == FREED or smallest_key(state.timers) <= now_s(state)  # others may be ready at this instant
    if not due and not _is_ready(state, subject):
        return
    gpu = first_idle(state)
    while gpu != NONE:
        model = _next_ready(state)
        if model == NOBODY:
            return
        dispatch(state, model, gpu, _size(state, model))
        _set_timer(state, model)
        state.memory[_NEXT] = model + 1
        gpu = first_idle(state)


@routine
def _begin(state: ClusterState) -> None:
    """What each model's batches are."""
    state.memory[_HAS_BEGUN] = 1
    for model in range(state.num_models):
        most = int(state.parameters[_MAX_BATCH])
        if most == 0:
            most = 1
            for size in range(1, state.max_batch[model] + 1):
                if 2 * state.latency_s[model, size] <= state.slo_s[model]:
                    most = size
        largest = min(most, state.max_batch[model])
        state.model_memory[model, _LARGEST] = largest
        state.model_memory[model, _FULL] = most
        for size in state.parameters[_PREFERRED:]:
            if size <= largest:
                state.model_memory[model, _FULL] = size


@kernel
def _is_ready(state: ClusterState, model: int) -> bool:
    waiting = num_waiting(state, model)
    return waiting > 0 and (
        waiting >= state.model_memory[model, _FULL]
        or arrival_of(state, model, 0) + state.parameters[_WAIT_S] <= now_s(state)
    )


@kernel
def _next_ready(state: ClusterState) -> int:
    """The first model that is ready, from the one whose turn it is; NOBODY without one."""
    model = int(state.memory[_NEXT])
    for _ in range(state.num_models):
        if model >= state.num_models:
            model = 0
        if _is_ready(state, model):
            return model
        model += 1
    return NOBODY


@kernel
def _size(state: ClusterState, model: int) -> int:
    """The largest size preferred that the queue fills; without one all, up to the largest batch."""
    largest = min(num_waiting(state, model), int(state.model_memory[model, _LARGEST]))
    best = 0
    for size in state.parameters[_PREFERRED:]:
        if size <= largest:
            best = int(size)
    return largest if best == 0 else best


@kernel
def _set_timer(state: ClusterState, model: int) -> None:
    """For the instant at which the first of a queue has waited, where that is to come."""
    at_s = math.inf
    if num_waiting(state, model) > 0:
        at_s = arrival_of(state, model, 0) + state.parameters[_WAIT_S]
        if at_s <= now_s(state):
            at_s = math.inf
    set_timer(state, model, at_s)


def in_turns(name: str, max_batch: int, wait_s: float, preferred: Sequence[int] = ()) -> BatchScheduler:
    """Batches up to `max_batch` (0: the largest that takes half of the objective) after at most `wait_s`.

    preferred: ascending; a queue is sent in the largest of these that it fills, as soon as it fills the last.
    """
    return BatchScheduler(
        name,
        schedule,
        np.array([max_batch, wait_s, *preferred], np.float64),
        memory_size=2,
        memory_per_model=2,
    )
