"""The native vector form of `servegym/DynamicBatching-v0`."""

import numpy.typing as npt

from servegym.envs.dynamic_batching.env import DEFAULT_SCENARIO, dynamic_batching_problem
from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario
from servegym.envs.vector import NativeVectorEnv


class DynamicBatchingVectorEnv(NativeVectorEnv):
    """`num_envs` servers: `DynamicBatchingEnv` says what they are, `NativeVectorEnv` how they run."""

    def __init__(
        self,
        num_envs: int = 64,
        scenario: str | DynamicBatchingScenario = DEFAULT_SCENARIO,
        arrivals_s: npt.ArrayLike | None = None,
        copy: bool = True,
    ) -> None:
        super().__init__(dynamic_batching_problem(scenario, arrivals_s, num_envs), copy)
