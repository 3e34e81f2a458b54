"""Asks a router again and again about small fleets, given by their columns."""

import numpy as np

from servegym.envs.sim.llm.router import Router, random_state
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    IDENTITY_COLUMNS,
    KV_TOTAL_BLOCKS,
    REPLICA_COLUMNS,
    REPLICA_FEATURES,
    REQUEST_COLUMNS,
    ROUTER_REQUEST_FEATURES,
    SPEED,
)

OF_REPLICA = {name: column for column, (name, _) in enumerate(REPLICA_COLUMNS)}
OF_REQUEST = {name: column for column, (name, _) in enumerate(REQUEST_COLUMNS + IDENTITY_COLUMNS)}


def rows(num_replicas: int, **columns: object) -> np.ndarray:
    """Replicas that are available and idle, with 100 KV blocks each, but for some columns by name."""
    table = np.zeros((num_replicas, REPLICA_FEATURES))
    table[:, AVAILABLE], table[:, KV_TOTAL_BLOCKS], table[:, SPEED] = 1.0, 100.0, 1.0
    for name, values in columns.items():
        table[:, OF_REPLICA[name]] = values
    return table


class Asking:
    """A router with its memory and random stream."""

    def __init__(self, router: Router, num_replicas: int) -> None:
        self.router = router
        self.memory = router.new_memory(num_replicas)
        self.random = random_state(np.random.SeedSequence(0))

    def __call__(self, replicas: np.ndarray, **about: float) -> int:
        """Its choice for a request with these columns."""
        request = np.zeros(ROUTER_REQUEST_FEATURES)
        for name, value in about.items():
            request[OF_REQUEST[name]] = value
        return int(self.router.choose(replicas, request, self.router.parameters, self.memory, self.random))
