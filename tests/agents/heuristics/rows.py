"""Rows of fleets small enough to decide by hand."""

import numpy as np
import numpy.typing as npt

from servegym.envs.sim.llm.router import Router, random_state
from servegym.envs.sim.llm.view import (
    IDENTITY_COLUMNS,
    LOAD_COLUMNS,
    REPLICA_COLUMNS,
    REQUEST_COLUMNS,
    ROUTER_REPLICA_FEATURES,
    ROUTER_REQUEST_FEATURES,
    STANDING_COLUMNS,
)

REPLICA_COLUMN = {
    name: column for column, (name, _) in enumerate(REPLICA_COLUMNS + LOAD_COLUMNS + STANDING_COLUMNS)
}
REQUEST_COLUMN = {name: column for column, (name, _) in enumerate(REQUEST_COLUMNS + IDENTITY_COLUMNS)}


def rows_of(num_replicas: int, **columns: npt.ArrayLike) -> np.ndarray:
    """Available replicas of speed 1 with 100 KV blocks, but for the columns given by name."""
    rows = np.zeros((num_replicas, ROUTER_REPLICA_FEATURES))
    columns = {"available": [1], "kv_total_blocks": [100], "speed": [1], **columns}
    for name, values in columns.items():
        rows[:, REPLICA_COLUMN[name]] = values
    return rows


def request_of(**columns: float) -> np.ndarray:
    """A request with these columns, otherwise zeros."""
    request = np.zeros(ROUTER_REQUEST_FEATURES)
    for name, value in columns.items():
        request[REQUEST_COLUMN[name]] = value
    return request


class Asking:
    """A router of a fleet with its memory and random stream, asked again and again."""

    def __init__(self, router: Router, num_replicas: int) -> None:
        self.router = router
        self.memory = router.new_memory(num_replicas)
        self.random = random_state(np.random.SeedSequence(0))

    def __call__(self, rows: np.ndarray, **columns: float) -> int:
        """Its decision on these rows, for a request with these columns."""
        request = request_of(**columns)
        return int(self.router.choose(rows, request, self.router.parameters, self.memory, self.random))


def choice(router: Router, rows: np.ndarray, **columns: float) -> int:
    """The router's first decision on these rows, for a request with these columns."""
    return Asking(router, len(rows))(rows, **columns)
