"""What the asking manager remembers, and where in `state.integers` and `state.memory` that stands."""

from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.elastic.memory_test import FORECAST_ROWS
from servegym.envs.sim.elastic.setup import GROUPS_PER_INSTANCE
from servegym.envs.sim.elastic.state import FleetState

INTERVAL, MAX_REQUESTS, MAX_PREFILL_S = range(3)
"""Columns of `state.parameters`."""

WINDOW = 64
"""How many of those who wait a batch is made of: the first of the queue."""

(
    STAGE,  # of an instant: what is asked about
    SUBJECT,  # the group asked about
    SEEN,  # arrivals when the agent last chose to wait; NEVER: it has not, since it was asked last
    NUM_HAD,  # instances that can be had
    NUM_WINDOW,
    PLAN,  # instances reserved for a prefill that waits for iterations to end
    PLAN_ORDER,
) = range(7)
_HEAD = 7

NEVER = -1

HAD, KNOWN, RESERVED, OWNER = range(4)
"""By instance: the list of those that can be had; whether it could be at the last look; whether it is
reserved; 1 + the group that may go on with it, 0 if there is none."""
_PER_INSTANCE = 4

JOINS, PREFILLING, SINCE_PREFILL, SINCE_SCALING, ADDED = range(5)
"""By group: 1 + the group that takes it in when its iteration ends; whether its last iteration is a prefill;
decodes since the agent was asked; instances that have joined since its last iteration."""
_PER_GROUP = 5

ARRIVAL, SHORTEST = range(2)
"""Orders of the window."""

SIZE, TOKENS, SECONDS, GAIN, SLOTS, BEGINS_S, PAUSED_REQUESTS = range(7)
"""Of a batch, by order and degree: requests, their tokens, the prefill's seconds, the sum of `1 / n`, free
slots on its instances now, seconds until it begins, requests in groups that it interrupts."""
_PER_BATCH = 7


@kernel
def of_instance(state: FleetState, column: int, instance: int) -> int:
    """Where a number of an instance stands in `state.integers`."""
    return _HEAD + column * state.num_instances + instance


@kernel
def of_group(state: FleetState, column: int, group: int) -> int:
    """Where a number of a group stands in `state.integers`."""
    return _HEAD + _PER_INSTANCE * state.num_instances + column * state.size.size + group


@kernel
def of_window(state: FleetState, order: int) -> int:
    """Where the list of the first that wait, in an order, begins in `state.integers`."""
    lists: int = _HEAD + _PER_INSTANCE * state.num_instances + _PER_GROUP * state.size.size
    return lists + order * WINDOW


@kernel
def of_scratch(state: FleetState) -> int:
    """Where room for a forecast of memory, or for a list of instances, begins in `state.integers`."""
    return of_window(state, 2)


@kernel
def of_batch(state: FleetState, order: int, degree: int, column: int) -> int:
    """Where a number of a batch stands in `state.memory`."""
    return state.size.size + ((order * state.num_instances + degree - 1) * _PER_BATCH) + column


def integers_for(num_instances: int, max_group: int, max_requests: int) -> int:
    """Integers in all."""
    groups = GROUPS_PER_INSTANCE * num_instances
    lists = 2 * WINDOW + FORECAST_ROWS * (max_group + WINDOW + 2)
    return _HEAD + _PER_INSTANCE * num_instances + _PER_GROUP * groups + lists


def memory_for(num_instances: int, max_group: int, max_requests: int) -> int:
    """Floats in all: of each group by how much its next iteration is delayed, and the batches."""
    return GROUPS_PER_INSTANCE * num_instances + 2 * num_instances * _PER_BATCH
