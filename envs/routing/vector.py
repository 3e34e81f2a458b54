"""The native vector form of `servegym/Routing-v0`."""

from servegym.envs.llm_episodes import episode_streams
from servegym.envs.routing.env import DEFAULT_SCENARIO, routing_problem
from servegym.envs.scenario import Scenario
from servegym.envs.vector import NativeVectorEnv


class RoutingVectorEnv(NativeVectorEnv):
    """`num_envs` routing episodes: `RoutingEnv` says what they are, `NativeVectorEnv` how they run."""

    def __init__(
        self,
        num_envs: int = 64,
        scenario: str | Scenario = DEFAULT_SCENARIO,
        split: str = "train",
        slots: int | None = None,
        flat: bool = False,
        copy: bool = True,
    ) -> None:
        super().__init__(routing_problem(episode_streams(scenario, split, num_envs), slots, flat), copy)
