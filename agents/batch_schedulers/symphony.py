"""Symphony: deferred batches, dispatched once waiting would not make them larger, to any GPU of the fleet.

Chen et al., "Symphony: Optimized DNN Model Serving using Deferred Batch Scheduling" (arXiv 2308.07470), as
its public dispatcher has it. Each model gathers a candidate, a batch with the window in which it may start:
from `frontrun`, after which a batch larger by one would miss the deadline of the oldest request, to the
latest start. When the window opens, the model takes a free GPU; where all are busy it waits in a pool, from
which a GPU about to be free takes the candidate that must start first. Requests that would make batches
small are dropped (`window`): those too old for the batch size that staggered GPUs need at the measured rate.

The other conditions are the authors' ablations: dispatch at once (`eager`), at the target size
(`target_batch_size`), a fixed time after the last batch (`target_queueing_delay`), as late as possible
(`latest`), or when the oldest request has waited a share of its objective (`timeout`). `lowest_number`
consolidates the load on few GPUs, so that others can be switched off; the public code takes the GPU that has
been idle longest.
"""

import math
from typing import Annotated

import numpy as np

from servegym.agents.parameters import NonNegativeFloat, one_of, within
from servegym.agents.published import Evidence, published
from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.batch.actions import dispatch, set_timer
from servegym.envs.sim.batch.gathering import (
    GATHERING_COLUMNS,
    RATE_RPS,
    TARGET,
    count_arrival,
    expires_s,
    front_s,
    gather,
    gone_s,
    latest_s,
    measure,
    took,
)
from servegym.envs.sim.batch.min_tree import (
    NONE,
    first_at_most,
    first_smallest,
    set_key,
    smallest_key,
)
from servegym.envs.sim.batch.queues import arrival_of, first_free, free_from, lead_s
from servegym.envs.sim.batch.scheduler import BatchScheduler, compiled_schedule
from servegym.envs.sim.batch.state import ARRIVAL, NOW, TIMER, ClusterState

CONDITIONS = (
    FRONTRUN,
    EAGER,
    TARGET_BATCH_SIZE,
    TARGET_QUEUEING_DELAY,
    LATEST,
    TIMEOUT,
) = ("frontrun", "eager", "target_batch_size", "target_queueing_delay", "latest", "timeout")
DROPS = WINDOW, ALONE = "window", "timeout"
CHOICES = LONGEST_IDLE, LOWEST_NUMBER = "longest_idle", "lowest_number"

_CONDITION, _SHARE, _DROP, _CHOICE, _MARGIN_S = range(5)
"""The parameters: names by their place above."""

_FRONTRUN, _EAGER, _TARGET_BATCH_SIZE, _TARGET_QUEUEING_DELAY, _LATEST, _TIMEOUT = map(float, range(6))
_ALONE = 1.0
_LOWEST_NUMBER = 1.0

(
    _SIZE,  # of the candidate
    _AT_S,  # its start
    _EXPIRES_S,
    _TIMER,  # what the model's timer means
    _LAST_START_S,  # of a batch of the model
) = range(GATHERING_COLUMNS, GATHERING_COLUMNS + 5)

_TO_MATCH, _TO_GATHER = 1.0, 2.0

RETRY_S = 1e-3


@compiled_schedule
def schedule(state: ClusterState, event: int, subject: int) -> None:
    """Candidates, and the pool of those that no GPU is free for."""
    if state.memory[0] == 0:
        _begin(state)
    if event == ARRIVAL:
        count_arrival(state, subject)
        _consider(state, subject)
    elif event == TIMER and subject < state.num_models:
        if state.model_memory[subject, _TIMER] == _TO_MATCH:
            if _match(state, subject):
                _consider(state, subject)
        else:
            _consider(state, subject)
    _serve_pool(state)


@routine
def _begin(state: ClusterState) -> None:
    state.memory[0] = 1
    for model in range(state.num_models):
        state.model_memory[model, _LAST_START_S] = -math.inf


@routine
def _consider(state: ClusterState, model: int) -> None:
    """Gathers candidates and dispatches them, until one has to wait or there is none."""
    memory = state.model_memory[model]
    set_key(state.pool, model, math.inf)
    while True:
        size = gather(state, model, -math.inf, _aim(state, model))
        if size == 0:
            set_timer(state, model, math.inf)
            return
        earliest_s = state.clock[NOW] + lead_s(state, size)
        wish_s = min(
            _wish_s(state, model, size), latest_s(state, model, 0, size, state.parameters[_MARGIN_S])
        )
        memory[_SIZE] = size
        memory[_AT_S] = max(earliest_s, wish_s)
        memory[_EXPIRES_S] = expires_s(state, model, 0, size)
        send_s = memory[_AT_S] - lead_s(state, size)
        if send_s > state.clock[NOW]:
            memory[_TIMER] = _TO_MATCH
            set_timer(state, model, send_s)
            return
        if not _match(state, model):
            return


@kernel
def _aim(state: ClusterState, model: int) -> int:
    measure(state, model)
    return 1 if state.parameters[_DROP] == _ALONE else int(state.model_memory[model, TARGET])


@kernel
def _wish_s(state: ClusterState, model: int, size: int) -> float:
    """When the candidate would like to start; -inf for at once."""
    condition = state.parameters[_CONDITION]
    memory = state.model_memory[model]
    margin_s = state.parameters[_MARGIN_S]
    if condition == _EAGER:
        return -math.inf
    if condition == _TARGET_BATCH_SIZE and size >= memory[TARGET]:
        return -math.inf
    if condition == _TARGET_QUEUEING_DELAY:
        if memory[RATE_RPS] == 0:
            return -math.inf
        return float(memory[_LAST_START_S] + memory[TARGET] / memory[RATE_RPS])
    if condition == _LATEST:
        return latest_s(state, model, 0, size, margin_s)
    if condition == _TIMEOUT:
        return float(arrival_of(state, model, 0) + state.parameters[_SHARE] * state.slo_s[model])
    return front_s(state, model, 0, size, margin_s)


@kernel
def _match(state: ClusterState, model: int) -> bool:
    """A GPU for a candidate whose time has come; without one it goes into the pool. Whether it was sent."""
    memory = state.model_memory[model]
    if state.parameters[_CHOICE] == _LOWEST_NUMBER:
        gpu = first_at_most(state.with_room, memory[_AT_S])
    else:
        gpu = first_free(state)
    if free_from(state, gpu) <= memory[_AT_S]:
        return _grant(state, model, gpu)
    set_key(state.pool, model, memory[_EXPIRES_S])
    memory[_TIMER] = _TO_GATHER
    set_timer(state, model, gone_s(state, int(memory[_SIZE]), memory[_EXPIRES_S]))
    return False


@routine
def _grant(state: ClusterState, model: int, gpu: int) -> bool:
    """A GPU for a model, which gathers once more, for this GPU; whether a batch was sent."""
    set_key(state.pool, model, math.inf)
    memory = state.model_memory[model]
    size = gather(state, model, state.free_at_s[gpu], _aim(state, model))
    if size == 0:
        memory[_TIMER] = _TO_GATHER
        set_timer(state, model, state.clock[NOW] + RETRY_S)
        return False
    dispatch(state, model, gpu, size)
    took(state, model, size)
    memory[_LAST_START_S] = state.batches[state.holds[gpu, state.held[gpu] - 1]].start_s
    return True


@kernel
def _serve_pool(state: ClusterState) -> None:
    """GPUs that are free, or about to be, take the candidates that must start first."""
    pool = state.pool  # when the candidates in it expire
    while smallest_key(pool) < math.inf:
        model = first_smallest(pool)
        gpu = first_free(state)
        if gpu == NONE:
            break
        send_s = state.free_at_s[gpu] - lead_s(state, int(state.model_memory[model, _SIZE]))
        if send_s > state.clock[NOW]:
            set_timer(state, state.num_models, send_s)
            return
        if state.free_at_s[gpu] > smallest_key(pool):
            set_key(pool, model, math.inf)
        elif _grant(state, model, gpu):
            _consider(state, model)
    set_timer(state, state.num_models, math.inf)


@published(
    "batch_scheduler",
    source="Chen et al., Symphony, arXiv 2308.07470, and its public dispatcher",
    evidence=Evidence.CODE,
    complexity="O(log M + log G) for M models and G GPUs, amortised",
)
def symphony(
    condition: Annotated[str, one_of(*CONDITIONS)] = FRONTRUN,
    timeout_share: Annotated[float, within(0, 1)] = 0.5,
    drop: Annotated[str, one_of(*DROPS)] = WINDOW,
    gpu: Annotated[str, one_of(*CHOICES)] = LONGEST_IDLE,
    margin_s: NonNegativeFloat = 100e-6,
) -> BatchScheduler:
    """When to dispatch a candidate, whom to drop, which GPU to take.

    `timeout_share`: of the objective, what the oldest request waits under `condition = timeout`.
    `drop`: `window` drops those too old for the target batch, `timeout` only who could not be served alone.
    `margin_s`: how much before its deadline a batch shall end, for timers that fire late.
    """
    parameters = (
        CONDITIONS.index(condition),
        timeout_share,
        DROPS.index(drop),
        CHOICES.index(gpu),
        margin_s,
    )
    return BatchScheduler(
        "symphony",
        schedule,
        np.array(parameters, np.float64),
        memory_size=1,
        memory_per_model=GATHERING_COLUMNS + 5,
    )
