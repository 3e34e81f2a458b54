"""Nexus's squishy bin packing: which models share a GPU, and in what batches, for given rates.

A model fills GPUs alone with the largest batches of which two in a row meet its objective. What is left of
its rate is a session, with a duty cycle: how long its batch takes to come together. Sessions are packed into
nodes, each a GPU that runs the batches of all its sessions once in the shortest duty cycle among them: where
that is shorter, batches get smaller. Best fit, sessions with the largest share of a GPU first. Shen et al.,
SOSP 2019; details as docs/batch_serving.md has them.
"""

import math

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.batch.gathering import GATHERING_COLUMNS
from servegym.envs.sim.batch.queues import lead_s
from servegym.envs.sim.batch.state import NOBODY, ClusterState

(
    PLANNED_RPS,  # the rate the plan is for
    ALONE,  # batch on GPUs of its own
    NUM_FULL,  # GPUs of its own
    LEFT_RPS,  # the rate of its session; 0 without one
    SIZE,  # batch of its session
    NEXT,  # 1 + the model after it in its node, 0 for the last
    _DUTY_S,  # of its session alone
    _SHARE,  # of a GPU, of its session alone; 0 where it is in a node
    FIRST,  # from here on, of the node of this number: 1 + its first model
    _LAST,  # 1 + its last model
    _NODE_DUTY_S,
    _OCCUPANCY,  # 0 where the plan has it
) = range(GATHERING_COLUMNS, GATHERING_COLUMNS + 12)
"""Columns of `state.model_memory`."""

PACKING_COLUMNS = GATHERING_COLUMNS + 12

NEGLIGIBLE = 1e-9
"""The share of a rate that is not worth a session."""


@routine
def pack(state: ClusterState) -> int:
    """Sessions and nodes for the rates in PLANNED_RPS; how many nodes there are, from 0 on."""
    for model in range(state.num_models):
        _split(state, model)
    num_nodes = 0
    model = _largest(state, _SHARE, state.num_models)
    while model != NOBODY:
        if not _join_best(state, model, num_nodes):
            node = state.model_memory[num_nodes]
            node[FIRST] = node[_LAST] = 1 + model
            node[_NODE_DUTY_S] = state.model_memory[model, _DUTY_S]
            node[_OCCUPANCY] = state.model_memory[model, _SHARE]
            num_nodes += 1
        state.model_memory[model, _SHARE] = 0
        model = _largest(state, _SHARE, state.num_models)
    return num_nodes


@routine
def take_fullest(state: ClusterState, num_nodes: int) -> int:
    """The node with the largest occupancy of those not taken before, the first made of equals."""
    node = _largest(state, _OCCUPANCY, num_nodes)
    state.model_memory[node, _OCCUPANCY] = 0
    return node


@kernel
def _largest(state: ClusterState, column: int, count: int) -> int:
    """The first of the first `count` rows with the largest number above 0; NOBODY without one."""
    chosen = NOBODY
    most = 0.0
    for row in range(count):
        if state.model_memory[row, column] > most:
            chosen, most = row, state.model_memory[row, column]
    return chosen


@kernel
def _budget_s(state: ClusterState, model: int, size: int) -> float:
    """What waiting for a batch and running it may take."""
    slo_s: float = state.slo_s[model]
    return slo_s - state.response_s - lead_s(state, size)


@kernel
def _split(state: ClusterState, model: int) -> None:
    """The GPUs that a model fills, and the session for the rest of its rate."""
    memory, latency_s = state.model_memory[model], state.latency_s[model]
    rate_rps = memory[PLANNED_RPS]
    memory[NUM_FULL] = memory[LEFT_RPS] = memory[NEXT] = memory[_SHARE] = 0
    if rate_rps == 0:
        return
    alone = size = 1
    for larger in range(1, state.max_batch[model] + 1):
        if 2 * latency_s[larger] <= _budget_s(state, model, larger):
            alone = larger
    memory[ALONE] = alone
    memory[NUM_FULL] = math.floor(rate_rps * latency_s[alone] / alone)
    left_rps = rate_rps - memory[NUM_FULL] * alone / latency_s[alone]
    if left_rps <= NEGLIGIBLE * rate_rps:
        return
    for larger in range(1, state.max_batch[model] + 1):
        if latency_s[larger] + larger / left_rps <= _budget_s(state, model, larger):
            size = larger
    memory[LEFT_RPS] = left_rps
    memory[SIZE] = size
    memory[_DUTY_S] = max(size / left_rps, latency_s[size])
    memory[_SHARE] = latency_s[size] / memory[_DUTY_S]


@kernel
def _join_best(state: ClusterState, model: int, num_nodes: int) -> bool:
    """Puts a session into the node that it fills best; False where none takes it."""
    chosen = NOBODY
    most = 0.0
    for number in range(num_nodes):
        occupancy = _occupancy_with(state, number, model)
        if occupancy > most:
            chosen, most = number, occupancy
    if chosen == NOBODY:
        return False
    node = state.model_memory[chosen]
    node[_NODE_DUTY_S] = min(node[_NODE_DUTY_S], state.model_memory[model, _DUTY_S])
    node[_OCCUPANCY] = most
    state.model_memory[int(node[_LAST]) - 1, NEXT] = 1 + model
    node[_LAST] = 1 + model
    member = int(node[FIRST]) - 1
    while member != NOBODY:
        state.model_memory[member, SIZE] = _size_in(state, member, node[_NODE_DUTY_S])
        member = int(state.model_memory[member, NEXT]) - 1
    return True


@kernel
def _occupancy_with(state: ClusterState, number: int, model: int) -> float:
    """The share of its time that a node would be busy with one more session; 0 where it cannot take it."""
    node = state.model_memory[number]
    duty_s = min(node[_NODE_DUTY_S], state.model_memory[model, _DUTY_S])
    busy_s = 0.0
    member = int(node[FIRST]) - 1
    is_new = False
    while True:
        size = _size_in(state, member, duty_s)
        busy_s += state.latency_s[member, size]
        if state.latency_s[member, size] + duty_s > _budget_s(state, member, size):
            return 0.0
        if is_new:
            break
        member = int(state.model_memory[member, NEXT]) - 1
        if member == NOBODY:
            member, is_new = model, True
    return busy_s / duty_s if busy_s <= duty_s else 0.0


@kernel
def _size_in(state: ClusterState, model: int, duty_s: float) -> int:
    """What comes together of a session in a duty cycle."""
    size: int = math.ceil(duty_s * state.model_memory[model, LEFT_RPS])
    largest: int = state.max_batch[model]
    return min(largest, max(1, size))
