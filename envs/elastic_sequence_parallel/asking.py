"""When an agent is asked about what, and carrying out what it answers.

docs/elastic_sequence_parallelism.md, "The decision of an agent".
"""

import numpy as np

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.elastic_sequence_parallel.memory import (
    ADDED,
    HAD,
    INTERVAL,
    JOINS,
    KNOWN,
    NEVER,
    NUM_HAD,
    OWNER,
    PLAN,
    PLAN_ORDER,
    PREFILLING,
    RESERVED,
    SEEN,
    SINCE_PREFILL,
    SINCE_SCALING,
    SIZE,
    STAGE,
    SUBJECT,
    integers_for,
    memory_for,
    of_batch,
    of_group,
    of_instance,
    of_scratch,
    of_window,
)
from servegym.envs.elastic_sequence_parallel.prefilling import (
    find_batches,
    find_instances,
    find_owners,
    find_window,
    fitting,
    largest_batch,
)
from servegym.envs.elastic_sequence_parallel.scaling import (
    decode_all,
    grow,
    idle_instance,
    join,
    may_go_on,
    may_grow,
    may_shrink,
    partner,
    shrink,
    take_in,
    take_in_joining,
)
from servegym.envs.sim.elastic.actions import prefill
from servegym.envs.sim.elastic.fleet_use import shared_member
from servegym.envs.sim.elastic.groups import free_tokens, is_at_rest, nobody_runs
from servegym.envs.sim.elastic.manager import Manager, compiled_manage
from servegym.envs.sim.elastic.state import (
    ERROR_CODE,
    NEXT_ARRIVAL,
    NO_ERROR,
    NOBODY,
    NUM_REQUESTS,
    NUM_WAITING,
    PAUSED,
    RESTS,
    FleetState,
)

PREFILL, SCALING = range(2)
"""What is asked about."""

GO_ON = 0
"""Wait, or go on as it is; then follow the prefills of each order and degree, and these."""
MORE, LESS, MERGE = range(1, 4)
"""Behind the last prefill."""


def agent(interval: int, max_requests: int, max_prefill_s: float) -> Manager:
    """The manager whose decisions its caller takes: `run` returns whenever one is due.

    interval: decode iterations of a group from question to question. max_requests: in groups at once.
    max_prefill_s: of a batch of several.
    """
    parameters = np.array([interval, max_requests, max_prefill_s], np.float64)
    return Manager("agent", ask, parameters, memory_for, integers_for)


@compiled_manage
def ask(state: FleetState) -> None:
    """Goes as far as it can without the agent, and pauses where that is asked something."""
    take_in_joining(state)
    _take_in_interrupted(state)
    _begin_plan(state)
    state.integers[STAGE] = PREFILL
    if advance(state):
        state.counters[PAUSED] = 1


@routine
def advance(state: FleetState) -> bool:
    """Goes on at this instant; whether a question is due."""
    if state.integers[STAGE] == PREFILL:
        if _prefill_is_due(state, False):
            return True
        state.integers[STAGE] = SCALING
        state.integers[SUBJECT] = 0
    while state.integers[SUBJECT] < state.size.size:
        if _scaling_is_due(state, state.integers[SUBJECT]):
            return True
        state.integers[SUBJECT] += 1
    decode_all(state)
    all_have_come = state.counters[NEXT_ARRIVAL] == state.counters[NUM_REQUESTS]
    if all_have_come and nobody_runs(state) and state.error[ERROR_CODE] == NO_ERROR:
        state.integers[STAGE] = PREFILL
        return _prefill_is_due(state, True)
    return False


@kernel
def may_wait(state: FleetState) -> bool:
    """Whether something is yet to happen if nothing is prefilled."""
    groups = 0
    for group in range(state.size.size):
        groups += state.size[group] > 0
    return groups > 0 or state.counters[NEXT_ARRIVAL] < state.counters[NUM_REQUESTS]


@routine
def find_legal(state: FleetState, masks: np.ndarray) -> None:
    """Of the question that is due: masks bool (2 N + 4,), True where an action is legal."""
    count = state.num_instances
    masks[:] = False
    if state.integers[STAGE] == PREFILL:
        masks[GO_ON] = may_wait(state)
        for order in range(2):
            for degree in range(1, count + 1):
                masks[order * count + degree] = state.memory[of_batch(state, order, degree, SIZE)] > 0
    else:
        group = state.integers[SUBJECT]
        masks[GO_ON] = True
        masks[2 * count + MORE] = may_grow(state, group)
        masks[2 * count + LESS] = may_shrink(state, group)
        masks[2 * count + MERGE] = partner(state, group) != NOBODY


@routine
def answer(state: FleetState, action: int) -> None:
    """Carries out a legal action."""
    count = state.num_instances
    if state.integers[STAGE] == PREFILL:
        if action == GO_ON:
            _wait(state)
        else:
            order, degree = (action - 1) // count, 1 + (action - 1) % count
            _choose_prefill(state, order, degree)
        return
    group = state.integers[SUBJECT]
    state.integers[of_group(state, SINCE_SCALING, group)] = 0
    state.integers[SUBJECT] += 1
    if action == 2 * count + MORE:
        grow(state, group, idle_instance(state))
    elif action == 2 * count + LESS:
        shrink(state, group)
    elif action == 2 * count + MERGE:
        join(state, group, partner(state, group))


@routine
def _prefill_is_due(state: FleetState, forced: bool) -> bool:
    if state.integers[PLAN] > 0 or state.counters[NUM_WAITING] == 0:
        return False
    find_instances(state)
    news = forced or state.counters[NEXT_ARRIVAL] > state.integers[SEEN]
    for at in range(state.integers[NUM_HAD]):
        known = of_instance(state, KNOWN, state.integers[of_instance(state, HAD, at)])
        news = news or state.integers[known] == 0
        state.integers[known] = 2
    for instance in range(state.num_instances):  # 2 to 1: it can be had now; 1 to 0: no more
        state.integers[of_instance(state, KNOWN, instance)] //= 2
    if not news or state.integers[NUM_HAD] == 0:
        return False
    find_window(state)
    if find_batches(state):
        return True
    _wait(state)
    return False


@kernel
def _wait(state: FleetState) -> None:
    """Those who could have been interrupted count anew."""
    state.integers[SEEN] = state.counters[NEXT_ARRIVAL]
    for at in range(state.integers[NUM_HAD]):
        owner = state.integers[of_instance(state, OWNER, state.integers[of_instance(state, HAD, at)])]
        if owner > 0:
            state.integers[of_group(state, SINCE_PREFILL, owner - 1)] = 0
    if state.integers[STAGE] == PREFILL:
        state.integers[STAGE] = SCALING
        state.integers[SUBJECT] = 0


@kernel
def _choose_prefill(state: FleetState, order: int, degree: int) -> None:
    """Begins it, or reserves its instances until all are at rest."""
    state.integers[SEEN] = NEVER
    state.integers[PLAN] = degree
    state.integers[PLAN_ORDER] = order
    for at in range(degree):
        state.integers[of_instance(state, RESERVED, state.integers[of_instance(state, HAD, at)])] = 1
    running = 0
    for at in range(degree):
        running += state.runs_for[state.integers[of_instance(state, HAD, at)]] != NOBODY
    if running == 0:
        _begin_plan(state)


@routine
def _begin_plan(state: FleetState) -> None:
    """Prefills on the reserved instances once all are at rest; gives them back where nobody fits any more."""
    degree = state.integers[PLAN]
    if degree == 0:
        return
    slots, crosses, first_node = 0, 0, NOBODY
    for instance in range(state.num_instances):
        if state.integers[of_instance(state, RESERVED, instance)]:
            if state.runs_for[instance] != NOBODY:
                return
            slots += free_tokens(state, instance)
            node = instance // state.instances_per_node
            if first_node == NOBODY:
                first_node = node
            elif node != first_node:
                crosses = 1
    find_window(state)
    requests = state.integers[of_window(state, state.integers[PLAN_ORDER]) :]
    size = fitting(state, requests, largest_batch(state, requests, degree, slots, crosses))
    instances, at = state.integers[of_scratch(state) :], 0
    for instance in range(state.num_instances):
        reserved = of_instance(state, RESERVED, instance)
        if state.integers[reserved]:
            instances[at] = instance
            at += 1
            state.integers[reserved] = 0
    state.integers[PLAN] = 0
    if size == 0:
        return
    group = prefill(state, requests, size, instances, degree, 0.0, False)
    if group == NOBODY:
        return
    state.memory[group] = 0.0
    for column in (JOINS, ADDED, SINCE_PREFILL, SINCE_SCALING):
        state.integers[of_group(state, column, group)] = 0
    state.integers[of_group(state, PREFILLING, group)] = 1


@routine
def _take_in_interrupted(state: FleetState) -> None:
    """Groups whose prefill has ended take in those at rest that share an instance with them."""
    for group in range(state.size.size):
        prefilling = of_group(state, PREFILLING, group)
        if state.integers[prefilling] == 0 or state.activity[group] != RESTS:
            continue
        state.integers[prefilling] = 0
        if state.size[group] == 0:
            continue
        state.integers[of_group(state, SINCE_SCALING, group)] = int(state.parameters[INTERVAL])
        for other in range(state.size.size):
            if other != group and is_at_rest(state, other) and shared_member(state, group, other):
                take_in(state, group, other)


@routine
def _scaling_is_due(state: FleetState, group: int) -> bool:
    since = of_group(state, SINCE_SCALING, group)
    if state.integers[since] < state.parameters[INTERVAL] or not may_go_on(state, group):
        return False
    find_owners(state)
    if may_grow(state, group) or may_shrink(state, group) or partner(state, group) != NOBODY:
        return True
    state.integers[since] = 0
    return False
