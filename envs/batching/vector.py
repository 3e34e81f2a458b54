"""The native vector form of `servegym/Batching-v0`."""

from servegym.envs.batching.env import DEFAULT_SCENARIO, batching_problem
from servegym.envs.llm_episodes import episode_streams
from servegym.envs.scenario import Scenario
from servegym.envs.vector import NativeVectorEnv


class BatchingVectorEnv(NativeVectorEnv):
    """`num_envs` scheduling episodes: `BatchingEnv` says what they are, `NativeVectorEnv` how they run."""

    def __init__(
        self,
        num_envs: int = 64,
        scenario: str | Scenario = DEFAULT_SCENARIO,
        split: str = "train",
        action: str = "discrete",
        flat: bool = False,
        copy: bool = True,
    ) -> None:
        super().__init__(batching_problem(episode_streams(scenario, split, num_envs), action, flat), copy)
