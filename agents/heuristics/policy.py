"""A heuristic as a plain policy over observations, from the same code the simulator calls."""

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.routing.observation import Observation
from servegym.envs.sim.llm.router import Router, random_state
from servegym.envs.sim.llm.view import (
    REPLICA_FEATURES,
    REQUEST_FEATURES,
    ROUTER_REPLICA_FEATURES,
    ROUTER_REQUEST_FEATURES,
)

UNKNOWN = -1.0
"""In place of what an observation does not have: who a request is, and columns of routers."""


def as_router_sees(observation: Observation) -> tuple[np.ndarray, np.ndarray]:
    """Float64 rows (K, R, ROUTER_REPLICA_FEATURES) and (K, ROUTER_REQUEST_FEATURES) from observations."""
    seen = observation["replicas"]
    replicas = np.full((*seen.shape[:2], ROUTER_REPLICA_FEATURES), UNKNOWN)
    replicas[:, :, :REPLICA_FEATURES] = seen
    request = np.full((len(replicas), ROUTER_REQUEST_FEATURES), UNKNOWN)
    request[:, :REQUEST_FEATURES] = observation["request"]
    return replicas, request


class HeuristicPolicy:
    """Runs a router's `choose` on the observations of K episodes.

    InputError for a router that reads what observations do not have: sessions, prefixes, columns of routers.
    """

    def __init__(self, router: Router) -> None:
        if router.reads_beyond_observations:
            raise InputError(
                f"router {router.name}: needs {', '.join(sorted(router.needs)) or 'columns of routers'}: "
                "must not read identities of requests or columns which observations do not have; simulate "
                "and evaluate give them"
            )
        self.name = router.name
        self.router = router
        self.reset(1, 0)

    def reset(self, num_episodes: int, seed: int) -> None:
        """Fresh memory and random streams; episode k draws as a simulation with seed `seed + k` does."""
        self._memory: list[np.ndarray] = []  # made when the number of replicas is seen
        seeds = [np.random.SeedSequence(seed + episode) for episode in range(num_episodes)]
        self._random = np.stack([random_state(sequence) for sequence in seeds])

    def act(self, observation: Observation) -> np.ndarray:
        """int64 (K,): the router's choice in each episode."""
        replicas, request = as_router_sees(observation)
        router = self.router
        if not self._memory:
            self._memory = [router.new_memory(replicas.shape[1]) for _ in replicas]
        return np.array(
            [
                router.choose(replicas[k], request[k], router.parameters, self._memory[k], self._random[k])
                for k in range(len(replicas))
            ],
            np.int64,
        )
