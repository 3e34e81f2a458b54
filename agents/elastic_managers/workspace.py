"""Where managers keep what they know and work with: parts of `state.integers`.

First scalars, then group rows (a place for each group; instances, which are fewer, fit as well), then
request rows (a place for each of `max_requests` requests, and one more)."""

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.elastic.setup import GROUPS_PER_INSTANCE
from servegym.envs.sim.elastic.state import FleetState

MAX_REQUESTS, MAX_TOKENS, MAX_WAIT = range(3)
"""The parameters that all managers have."""

NUM_SCALARS = 8
NUM_GROUP_ROWS = 9


@kernel
def group_row(state: FleetState, row: int) -> int:
    """Where a row of groups starts."""
    return NUM_SCALARS + row * state.size.size


@kernel
def request_row(state: FleetState, row: int) -> int:
    """Where a row of requests starts."""
    return group_row(state, NUM_GROUP_ROWS) + row * (int(state.parameters[MAX_REQUESTS]) + 1)


def integers_of_rows(max_requests: int, num_request_rows: int, num_instances: int) -> int:
    """How many integers scalars, group rows and request rows are."""
    return (
        NUM_SCALARS
        + NUM_GROUP_ROWS * GROUPS_PER_INSTANCE * num_instances
        + num_request_rows * (max_requests + 1)
    )


def check_max_requests(max_requests: int, max_group: int) -> None:
    """InputError where a group of so many would be larger than the fleet has times for."""
    if max_requests > max_group:
        raise InputError(
            f"elastic_manager.max_requests = {max_requests}: must be at most {max_group}, the most "
            "requests of a group that the fleet has times for"
        )
