"""When an agent is asked about which model, and carrying out what it answers.

docs/batch_serving.md, "The decision of an agent".

A model has a candidate: the batch that Symphony would gather, with the window in which it may start. What
such a batch leaves behind is not dropped before the batch is sent, for the agent may choose to keep it.
"""

import math

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.batch.actions import dispatch, drop, set_timer
from servegym.envs.sim.batch.gathering import (
    GATHERING_COLUMNS,
    PREFIX,
    TARGET,
    count_arrival,
    expires_s,
    front_s,
    gathered,
    gone_s,
    latest_s,
    measure,
)
from servegym.envs.sim.batch.min_tree import NONE, first_smallest, set_key, smallest_key
from servegym.envs.sim.batch.queues import (
    deadline_of,
    end_if_sent,
    first_idle,
    is_idle,
    lead_s,
    num_waiting,
)
from servegym.envs.sim.batch.scheduler import BatchScheduler, compiled_schedule
from servegym.envs.sim.batch.state import ARRIVAL, FREED, NOW, PAUSED, TIMER, ClusterState

MARGIN_S = 100e-6
"""How much before its deadline a batch shall end, for timers that fire late [Symphony's default]."""

(
    LEFT_BEHIND,  # requests before the candidate's; of the queue after them is PREFIX
    SIZE,  # of the candidate; 0: there is none
    FRONT_S,  # start from which on a batch larger by one would be late; -inf where none is larger
    LATEST_S,  # last start in time, but for the margin
    EXPIRES_S,  # last start in time; FAR_S without an objective
) = range(GATHERING_COLUMNS, GATHERING_COLUMNS + 5)
_COLUMNS = GATHERING_COLUMNS + 5

LATE = 0
"""In `state.memory`: requests dispatched too late."""


@compiled_schedule
def ask(state: ClusterState, event: int, subject: int) -> None:
    """Puts the models to be asked about into `state.pool`, and pauses if a GPU is idle."""
    if event == ARRIVAL:
        count_arrival(state, subject)
        _look(state, subject)
    elif event == TIMER:
        if _is_open(state, subject):
            _make_due(state, subject)
        else:
            _look(state, subject)
    elif event == FREED and is_idle(state, subject):
        for model in range(state.num_models):
            if _is_open(state, model):
                _make_due(state, model)
    pause_if_due(state)


def agent() -> BatchScheduler:
    """The scheduler whose decisions its caller takes: `run` returns whenever one is due."""
    return BatchScheduler("agent", ask, memory_size=1, memory_per_model=_COLUMNS)


@kernel
def due_model(state: ClusterState) -> int:
    """The model that the agent is asked about; NONE once nobody is due."""
    return first_smallest(state.pool)


@kernel
def pause_if_due(state: ClusterState) -> bool:
    """Whether the agent is to be asked; who is due while no GPU is idle waits for one."""
    if smallest_key(state.pool) == math.inf:
        return False
    if first_idle(state) != NONE:
        state.counters[PAUSED] = 1
        return True
    while smallest_key(state.pool) < math.inf:
        model = first_smallest(state.pool)
        set_key(state.pool, model, math.inf)
        set_timer(state, model, _gone_s(state, model))
    return False


@kernel
def wait(state: ClusterState, model: int) -> None:
    """The agent is asked again when the next part of the window begins, or once it is over."""
    set_key(state.pool, model, math.inf)
    set_timer(state, model, wakes_at_s(state, model))


@kernel
def wakes_at_s(state: ClusterState, model: int) -> float:
    """When the agent is asked again about a model with a candidate, if nothing happens; inf: never."""
    memory = state.model_memory[model]
    lead = lead_s(state, int(memory[SIZE]))
    at_s: float = memory[FRONT_S] - lead
    if at_s <= state.clock[NOW]:
        at_s = memory[LATEST_S] - lead
    if at_s <= state.clock[NOW]:
        at_s = _gone_s(state, model)
    return at_s


@routine
def send(state: ClusterState, model: int, gpu: int, keeps_more: bool) -> None:
    """Dispatches the candidate, or the batch that keeps more; drops what is left behind."""
    memory = state.model_memory[model]
    behind, prefix, size = batch_of(state, model, keeps_more)
    drop(state, model, behind)
    if size > 0:
        dispatch(state, model, gpu, size)
        state.memory[LATE] += state.batches[state.holds[gpu, 0]].num_bad
    left = max(0, int(memory[LEFT_BEHIND]) - behind - size)
    memory[LEFT_BEHIND] = left
    memory[PREFIX] = max(0, prefix - size - left)
    _look(state, model)


@kernel
def batch_of(state: ClusterState, model: int, keeps_more: bool) -> tuple[int, int, int]:
    """One of the two batches: requests it leaves behind, old ones among those after them, its size."""
    memory = state.model_memory[model]
    first, prefix = int(memory[LEFT_BEHIND]), int(memory[PREFIX])
    measure(state, model)
    target = int(memory[TARGET])
    if keeps_more:
        return gathered(state, model, 0, first + prefix, -math.inf, max(1, 3 * target // 4))
    behind, prefix, size = gathered(state, model, first, prefix, -math.inf, target)
    return first + behind, prefix, size


@routine
def _look(state: ClusterState, model: int) -> None:
    """A new candidate, about which the agent is to be asked; drops who could not even be served alone."""
    memory = state.model_memory[model]
    first = int(memory[LEFT_BEHIND])
    hopeless = 0
    while hopeless < first and end_if_sent(state, model, 1, -math.inf) > deadline_of(state, model, hopeless):
        hopeless += 1
    drop(state, model, hopeless)
    memory[LEFT_BEHIND] = first - hopeless
    if memory[LEFT_BEHIND] == num_waiting(state, model):  # nobody else is left: they are the queue
        memory[PREFIX] = memory[LEFT_BEHIND]
        memory[LEFT_BEHIND] = 0
    behind, prefix, size = batch_of(state, model, False)
    memory[SIZE] = size
    if size == 0:
        drop(state, model, behind)
        memory[LEFT_BEHIND] = 0
        memory[PREFIX] = 0
        set_key(state.pool, model, math.inf)
        set_timer(state, model, math.inf)
        return
    memory[LEFT_BEHIND] = behind
    memory[PREFIX] = prefix
    memory[FRONT_S] = front_s(state, model, behind, size, MARGIN_S)
    memory[LATEST_S] = latest_s(state, model, behind, size, MARGIN_S)
    memory[EXPIRES_S] = expires_s(state, model, behind, size)
    _make_due(state, model)


@kernel
def _make_due(state: ClusterState, model: int) -> None:
    set_key(state.pool, model, state.model_memory[model, EXPIRES_S])


@kernel
def _is_open(state: ClusterState, model: int) -> bool:
    """Whether a model has a candidate that can still be in time."""
    memory = state.model_memory[model]
    can_be: bool = state.clock[NOW] <= memory[EXPIRES_S] - lead_s(state, int(memory[SIZE]))
    return can_be and memory[SIZE] > 0


@kernel
def _gone_s(state: ClusterState, model: int) -> float:
    """When a candidate can be in time no more."""
    memory = state.model_memory[model]
    return gone_s(state, int(memory[SIZE]), memory[EXPIRES_S])
