"""The native vector form of `servegym/ElasticSequenceParallel-v0`."""

from servegym.envs.elastic_scenario import ElasticScenario
from servegym.envs.elastic_sequence_parallel.env import (
    DEFAULT_SCENARIO,
    elastic_sequence_parallel_problem,
    elastic_streams,
)
from servegym.envs.vector import NativeVectorEnv


class ElasticSequenceParallelVectorEnv(NativeVectorEnv):
    """`num_envs` episodes, as `ElasticSequenceParallelEnv` says; `NativeVectorEnv` says how they run."""

    def __init__(
        self,
        num_envs: int = 64,
        scenario: str | ElasticScenario = DEFAULT_SCENARIO,
        split: str = "train",
        flat: bool = False,
        copy: bool = True,
    ) -> None:
        super().__init__(
            elastic_sequence_parallel_problem(elastic_streams(scenario, split, num_envs), flat), copy
        )
