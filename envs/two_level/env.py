"""`servegym/TwoLevel-v0`: the agent is the load balancer and the scheduler of every engine behind it."""

from typing import Any

import gymnasium as gym
import numpy as np

from servegym.envs.metrics import summarise
from servegym.envs.routing.stream import EpisodeStream
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.sim.llm.decisions import NUM_CHOICES
from servegym.envs.two_level.episodes import TwoLevelEpisodes
from servegym.envs.two_level.observation import Observation, observation_space

DEFAULT_SCENARIO = "azure_conv_4xh100"


class TwoLevelEnv(gym.Env[Observation, np.int64]):
    """Route each request to one of R replicas, and put together the batches of all of them.

    One decision a step, of the level that is due first: routing at arrivals, after all iterations that end at
    that instant; scheduling at the start of a replica's iteration, as in `servegym/Batching-v0`, replicas
    by number. Nothing happens between, and nothing after the instant of the decision is seen.

    Observation: a Dict (envs/two_level/observation.py):
        level     Discrete(2)            0 routing, 1 scheduling
        replica   Discrete(R)            the replica to be scheduled
        request   float32 (4,)           as in `servegym/Routing-v0`; 0 when scheduling
        replicas  float32 (R, 13)        as in `servegym/Routing-v0`
        engine    float32 (13,)          as in `servegym/Batching-v0`, of that replica; 0 when routing
        requests  float32 (64, 12)       likewise
    Action: Discrete(R + 68). 0 to R - 1 route the request, the others are those of `servegym/Batching-v0` for
        the replica that is due. `action_masks()` gives the legal ones as bool (R + 68,); an illegal action
        raises ValueError and changes nothing.
    Reward, termination and episodes: as in `servegym/Batching-v0`, over the whole fleet.

    Arguments: scenario, a name in conf/scenario or a `Scenario`; split, "train" or "test".
    `envs/two_level/aec.py` has the same with an agent for the router and one for each scheduler.

    >>> import gymnasium as gym
    >>> env = gym.make("servegym.envs:servegym/TwoLevel-v0", scenario="generated_8xh100")
    >>> observation, info = env.reset(seed=0)
    >>> terminated, total = False, 0.0
    >>> while not terminated:  # join the shortest queue, each served first come first served
    ...     if observation["level"] == 0:
    ...         action = (observation["replicas"][:, 1] + observation["replicas"][:, 2]).argmin()
    ...     else:
    ...         action = 8 if env.unwrapped.action_masks()[8] else 8 + 67
    ...     observation, reward, terminated, truncated, info = env.step(action)
    ...     total += reward
    >>> metrics = info["episode_metrics"]
    >>> bool(np.isclose(-total, metrics["mean_ttft_s"] * metrics["num_requests"]))
    True
    """

    def __init__(self, scenario: str | Scenario = DEFAULT_SCENARIO, split: str = "train") -> None:
        self.scenario = load_scenario(scenario) if isinstance(scenario, str) else scenario
        self._stream = EpisodeStream(self.scenario, split)
        self._episodes = TwoLevelEpisodes(self.scenario, 1, self._stream.max_requests)
        num_replicas = self.scenario.num_replicas
        self.observation_space = observation_space(num_replicas)
        self.action_space = gym.spaces.Discrete(num_replicas + NUM_CHOICES)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts the next episode of the stream, or the first of stream `seed`."""
        super().reset(seed=seed)
        if seed is not None:
            self._stream.restart(seed)
        self._episodes.begin(0, self._stream.next_workload())
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Takes one decision and goes on to the next one."""
        if self._episodes.finished[0]:
            raise RuntimeError("the episode is over: call reset() before step()")
        self._episodes.step(np.array([action], np.int64))
        terminated = bool(self._episodes.finished[0])
        info = {"episode_metrics": summarise(self._episodes.results(0))} if terminated else {}
        return self._observation(), float(self._episodes.rewards[0]), terminated, False, info

    def action_masks(self) -> np.ndarray:
        """bool (R + 68,): True where the action is legal."""
        masks: np.ndarray = self._episodes.masks[0].copy()
        return masks

    def _observation(self) -> Observation:
        return {key: value[0].copy() for key, value in self._episodes.observation.items()}
