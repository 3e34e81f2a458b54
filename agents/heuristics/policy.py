"""A heuristic as a plain policy over observations, from the same code the simulator calls."""

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.routing.observation import Observation
from servegym.envs.sim.llm.router import Router, random_state
from servegym.envs.sim.llm.view import REQUEST_FEATURES, ROUTER_REQUEST_FEATURES

UNKNOWN = -1.0
"""Who a request is, by an observation."""


class HeuristicPolicy:
    """Runs a router's `choose` on the observations of K episodes.

    InputError for a router that tells sessions or prefixes apart, which observations do not name.
    """

    def __init__(self, router: Router) -> None:
        if router.reads_identities:
            raise InputError(
                f"router {router.name}: needs {', '.join(sorted(router.needs))}: must not read identities of "
                "requests, which observations do not have; simulate and evaluate give them"
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
        replicas = observation["replicas"].astype(np.float64)
        request = np.full((len(replicas), ROUTER_REQUEST_FEATURES), UNKNOWN)
        request[:, :REQUEST_FEATURES] = observation["request"]
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
