"""What the parts of LoongServe's manager share: its parameters, what it remembers, and where it works."""

from servegym.agents.elastic_managers.batching import (
    BATCH_COLUMNS,
    integers_for_batching,
    reals_for_batching,
)
from servegym.agents.elastic_managers.batching_table import seconds_on
from servegym.agents.elastic_managers.workspace import (
    MAX_WAIT,
    NUM_GROUP_ROWS,
    group_row,
    integers_of_rows,
    request_row,
)
from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.elastic.groups import is_at_rest
from servegym.envs.sim.elastic.memory_test import FORECAST_ROWS
from servegym.envs.sim.elastic.state import FleetState

(
    MAX_PREFILL_S,
    DECODING_S,
    MASTER_BATCH,
    OUT_OF_ORDER,
    SCALE_UP,
    PRUNED,
    ONE_BATCH,
) = range(MAX_WAIT + 1, MAX_WAIT + 8)
"""Parameters that come after those of all managers."""

WAIT, SKIPS, IS_MACRO = range(3)
"""Scalars: decode iterations since a dispatch gave requests, such dispatches out of order in a row, and
whether there is a macro iteration."""

(
    PENDING,  # 1 for a group that waits, since a prefill uses its instances
    IDLE_TOKENS,  # what a group has room for after its next iteration
    TAKERS,  # merges of a plan, in order: who takes
    TAKEN,  # whom
    SPARE,  # instances that a plan may give to groups
    GIVEN_TO,  # to which group, by place in SPARE; NOBODY
    AVAILABLE,  # instances for prefills
    FREE,  # their free tokens
    ORDER,  # of groups or instances
) = range(NUM_GROUP_ROWS)
"""Group rows."""

ADMITTED, UNDECIDED, KEYS, LENGTHS, FORECAST = range(5)
FORECAST_OF_ALL = FORECAST + FORECAST_ROWS
_BATCHES = FORECAST_OF_ALL + FORECAST_ROWS
"""Request rows; behind the last the batches, and what batching needs."""

MACRO_END, REALS = range(2)
"""In `state.memory`: when the macro iteration ends; from here on what batching needs."""


@kernel
def batches_at(state: FleetState) -> int:
    """Where the batches start."""
    return request_row(state, _BATCHES)


@kernel
def work_at(state: FleetState) -> int:
    """Where the integers that batching needs start."""
    return request_row(state, _BATCHES) + BATCH_COLUMNS * state.num_instances


def integers_for(max_requests: int, num_instances: int) -> int:
    """Integers of the manager."""
    return (
        integers_of_rows(max_requests, _BATCHES, num_instances)
        + BATCH_COLUMNS * num_instances
        + integers_for_batching(max_requests, num_instances)
    )


def reals_for(max_requests: int, num_instances: int) -> int:
    """Floats of the manager."""
    return REALS + reals_for_batching(max_requests, num_instances)


@kernel
def prefill_on(state: FleetState, instances: int, tokens: int, squares: int) -> float:
    """Seconds of a prefill on so many instances; inf for none."""
    return seconds_on(state.cost, state.instances_per_node, instances, tokens, squares)


@kernel
def goes_on(state: FleetState, group: int) -> bool:
    """Whether it is a group at rest that is not pending."""
    pending = state.integers[group_row(state, PENDING) + group] != 0
    return is_at_rest(state, group) and not pending
