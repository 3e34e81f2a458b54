"""The native vector form of `servegym/TwoLevel-v0`."""

from servegym.envs.llm_episodes import episode_streams
from servegym.envs.scenario import Scenario
from servegym.envs.two_level.env import DEFAULT_SCENARIO, two_level_problem
from servegym.envs.vector import NativeVectorEnv


class TwoLevelVectorEnv(NativeVectorEnv):
    """`num_envs` episodes of two levels: `TwoLevelEnv` says what they are, `NativeVectorEnv` how they run."""

    def __init__(
        self,
        num_envs: int = 64,
        scenario: str | Scenario = DEFAULT_SCENARIO,
        split: str = "train",
        flat: bool = False,
        copy: bool = True,
    ) -> None:
        super().__init__(two_level_problem(episode_streams(scenario, split, num_envs), flat), copy)
