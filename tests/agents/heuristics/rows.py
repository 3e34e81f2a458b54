"""Rows of fleets small enough to decide by hand."""

import numpy as np

from servegym.envs.sim.llm.router import Router, random_state
from servegym.envs.sim.llm.view import REPLICA_COLUMNS, REQUEST_COLUMNS, ROUTER_REQUEST_FEATURES

REPLICA_COLUMN = {name: column for column, (name, _) in enumerate(REPLICA_COLUMNS)}
REQUEST_COLUMN = {name: column for column, (name, _) in enumerate(REQUEST_COLUMNS)}


def rows_of(num_replicas: int, **columns: list[float]) -> np.ndarray:
    """Available replicas of speed 1 with 100 KV blocks, but for the columns given by name."""
    rows = np.zeros((num_replicas, len(REPLICA_COLUMNS)))
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


def choice(router: Router, rows: np.ndarray, **columns: float) -> int:
    """The router's first decision on these rows, for a request with these columns."""
    memory = router.new_memory(len(rows))
    seed = random_state(np.random.SeedSequence(0))
    return router.choose(rows, request_of(**columns), router.parameters, memory, seed)
