"""`servegym/Routing-v0`: the agent is the load balancer."""

from typing import Any

import gymnasium as gym
import numpy as np

from servegym.envs.metrics import summarise
from servegym.envs.routing.episodes import RoutingEpisodes
from servegym.envs.routing.observation import Observation, observation_space
from servegym.envs.routing.stream import EpisodeStream
from servegym.envs.scenario import Scenario, load_scenario

DEFAULT_SCENARIO = "azure_conv_8xh100"


class RoutingEnv(gym.Env[Observation, np.int64]):
    """Route each request of a stream to one of the replicas of a fleet.

    Observation: a Dict, the request/replica graph in arrays (envs/routing/observation.py):
        request   float32 (3,)         prompt tokens, predicted output tokens (0: no predictor), gap in s
        replicas  float32 (slots, 11)  a row per replica slot: available, running, waiting, queued prefill
                                       tokens, ... (columns and units: docs/simulator.md)
    Action: Discrete(slots), the replica that gets the request. Legal are the rows with `available` = 1;
        `action_masks()` gives them as bool (slots,). An illegal action raises ValueError.
    Reward: minus the increase of the episode's cost until the next decision, in seconds
        (envs/routing/reward.py). The undiscounted return is minus the sum of TTFT, or of what else the
        scenario's objective weighs.
    Termination: after the last request is routed the fleet runs until every request has finished; the
        episode terminates then, and `info["episode_metrics"]` sums it up. There is no time limit.
    Episodes: the scenario's training traffic, or its test traffic with `split="test"`; `reset(seed=s)`
        starts stream s, and every later reset without a seed goes on in it.

    Arguments: scenario, a name in conf/scenario or a `Scenario`; split, "train" or "test"; slots, rows of the
    observation, at least the number of replicas (default: equal).

    >>> import gymnasium as gym
    >>> env = gym.make("servegym.envs:servegym/Routing-v0", scenario="generated_8xh100")
    >>> observation, info = env.reset(seed=0)
    >>> terminated, total = False, 0.0
    >>> while not terminated:
    ...     shortest = (observation["replicas"][:, 1] + observation["replicas"][:, 2]).argmin()
    ...     observation, reward, terminated, truncated, info = env.step(shortest)
    ...     total += reward
    >>> metrics = info["episode_metrics"]
    >>> bool(np.isclose(-total, metrics["mean_ttft_s"] * metrics["num_requests"]))
    True
    """

    metadata = {"render_modes": []}

    def __init__(
        self,
        scenario: str | Scenario = DEFAULT_SCENARIO,
        split: str = "train",
        slots: int | None = None,
    ) -> None:
        self.scenario = load_scenario(scenario) if isinstance(scenario, str) else scenario
        self._stream = EpisodeStream(self.scenario, split)
        self._episodes = RoutingEpisodes(self.scenario, 1, self._stream.max_requests, slots)
        num_slots = self._episodes.replicas.shape[1]
        self.observation_space: gym.Space[Observation] = observation_space(num_slots)
        self.action_space = gym.spaces.Discrete(num_slots)

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
        """Routes the request to replica `action` and goes on to the next arrival."""
        if self._episodes.finished[0]:
            raise RuntimeError("the episode is over: call reset() before step()")
        self._episodes.step(np.array([action], np.int64))
        terminated = bool(self._episodes.finished[0])
        info = {"episode_metrics": summarise(self._episodes.results(0))} if terminated else {}
        return self._observation(), float(self._episodes.rewards[0]), terminated, False, info

    def action_masks(self) -> np.ndarray:
        """bool (slots,): True where the action is legal."""
        masks: np.ndarray = self._episodes.legal_actions()[0]
        return masks

    def _observation(self) -> Observation:
        return {"request": self._episodes.request[0].copy(), "replicas": self._episodes.replicas[0].copy()}
