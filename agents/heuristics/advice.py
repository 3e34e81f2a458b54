"""What several published routers would do, from observations that say the setting themselves."""

import functools
from collections.abc import Sequence
from typing import get_type_hints

import numpy as np

from servegym.agents.heuristics import ROUTERS, make_router
from servegym.agents.heuristics.policy import as_router_sees
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.linear import LinearClock
from servegym.envs.routing.observation import Observation
from servegym.envs.sim.llm.router import Router, random_state
from servegym.envs.sim.llm.view import BLOCK_SIZE, MEAN_OUTPUT_TOKENS, TOKEN_BUDGET


class Advice:
    """Asks routers without a memory, each made for the setting of the observation: its clock and limits.

    InputError for a router that has a memory, or reads what observations do not have.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        for name in names:
            router = make_router(name)
            if router.reads_beyond_observations or router.memory_size or router.memory_per_replica:
                raise InputError(f"router {name}: must choose by what is observed alone to give advice")

    def __call__(self, observation: Observation) -> np.ndarray:
        """int64 (K, routers): the replica that each would choose, of arrays with a leading axis K."""
        replicas, request = as_router_sees(observation)
        settings = observation["setting"].tolist()
        choices = np.empty((len(replicas), len(self.names)), np.int64)
        nothing, draws = np.zeros(0), random_state(np.random.SeedSequence(0))
        for k, setting in enumerate(settings):
            for number, router in enumerate(_routers(self.names, tuple(setting))):
                choices[k, number] = router.choose(replicas[k], request[k], router.parameters, nothing, draws)
        return choices


@functools.lru_cache(maxsize=256)
def _routers(names: tuple[str, ...], setting: tuple[float, ...]) -> tuple[Router, ...]:
    told = {
        "clock": LinearClock(*setting[:4]),
        "token_budget": round(setting[TOKEN_BUDGET]),
        "block_size": round(setting[BLOCK_SIZE]),
        "mean_output_tokens": setting[MEAN_OUTPUT_TOKENS],
    }
    return tuple(
        make_router(name, **{key: told[key] for key in get_type_hints(ROUTERS[name]) if key in told})
        for name in names
    )
