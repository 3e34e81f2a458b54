"""`servegym/Routing-v0`: the agent is the load balancer."""

from typing import Any

import gymnasium as gym
import numpy as np

from servegym.envs.metrics import summarise
from servegym.envs.routing.episodes import RoutingEpisodes
from servegym.envs.routing.observation import Observation, observation_space
from servegym.envs.routing.stream import EpisodeStream
from servegym.envs.routing.viewer import (
    RENDER_FPS,
    RENDER_MODES,
    Frame,
    Snapshot,
    Viewer,
    usable_render_modes,
)
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    KV_TOTAL_BLOCKS,
    KV_USED_BLOCKS,
    PROMPT_TOKENS,
    RUNNING,
    WAITING,
)

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

    Rendering: `render_mode="rgb_array"` gives pictures of the fleet (envs/routing/viewer.py), "human" shows
        them in a window after every reset and step. An instance's `metadata` lists what its machine can do.

    Arguments: scenario, a name in conf/scenario or a `Scenario`; split, "train" or "test"; slots, rows of the
    observation, at least the number of replicas (default: equal); render_mode, see above.

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

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": RENDER_FPS}

    def __init__(
        self,
        scenario: str | Scenario = DEFAULT_SCENARIO,
        split: str = "train",
        slots: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.metadata = {**self.metadata, "render_modes": usable_render_modes()}
        self.render_mode = render_mode
        self.scenario = load_scenario(scenario) if isinstance(scenario, str) else scenario
        self._stream = EpisodeStream(self.scenario, split)
        self._episodes = RoutingEpisodes(self.scenario, 1, self._stream.max_requests, slots)
        num_slots = self._episodes.replicas.shape[1]
        self.observation_space: gym.Space[Observation] = observation_space(num_slots)
        self.action_space = gym.spaces.Discrete(num_slots)
        self._last_action = -1
        self._viewer: Viewer | None = None
        if render_mode is not None:
            title = f"servegym/Routing-v0, {self.scenario.name}"
            self._viewer = Viewer(render_mode, title, self._episodes.num_replicas)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts the next episode of the stream, or the first of stream `seed`."""
        super().reset(seed=seed)
        if seed is not None:
            self._stream.restart(seed)
        self._episodes.begin(0, self._stream.next_workload())
        self._last_action = -1
        if self.render_mode == "human":
            self.render()
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Routes the request to replica `action` and goes on to the next arrival."""
        if self._episodes.finished[0]:
            raise RuntimeError("the episode is over: call reset() before step()")
        self._episodes.step(np.array([action], np.int64))
        self._last_action = int(action)
        if self.render_mode == "human":
            self.render()
        terminated = bool(self._episodes.finished[0])
        info = {"episode_metrics": summarise(self._episodes.results(0))} if terminated else {}
        return self._observation(), float(self._episodes.rewards[0]), terminated, False, info

    def render(self) -> Frame | None:
        """The fleet at the current decision: uint8 (600, 960, 3) in mode rgb_array, else None."""
        if self._viewer is None:
            gym.logger.warn("render() draws nothing: the environment was made without a render_mode")
            return None
        return self._viewer.draw(self._snapshot())

    def close(self) -> None:
        """Closes the window, if there is one."""
        if self._viewer is not None:
            self._viewer.close()

    def action_masks(self) -> np.ndarray:
        """bool (slots,): True where the action is legal."""
        masks: np.ndarray = self._episodes.legal_actions()[0]
        return masks

    def _observation(self) -> Observation:
        return {"request": self._episodes.request[0].copy(), "replicas": self._episodes.replicas[0].copy()}

    def _snapshot(self) -> Snapshot:
        episodes = self._episodes
        episode = episodes.episodes[0]
        rows = episodes.replicas[0, : episodes.num_replicas].astype(np.float64)
        running, waiting = rows[:, RUNNING], rows[:, WAITING]
        kv_share = rows[:, KV_USED_BLOCKS] / np.maximum(rows[:, KV_TOTAL_BLOCKS], 1)
        over = bool(episodes.finished[0])
        return Snapshot(
            time_s=float(episode.now_s),
            running=running,
            waiting=waiting,
            kv_share=kv_share,
            available=rows[:, AVAILABLE] > 0,
            chosen=self._last_action,
            facts=(
                ("last arrival" if over else "time", f"{episode.now_s:,.2f} s"),
                ("routed", f"{episode.next_request:,} of {episode.num_requests:,}"),
                ("running", f"{running.sum():,.0f}"),
                ("waiting", f"{waiting.sum():,.0f}"),
                ("KV in use", f"{kv_share.mean():.0%}"),
                ("next request", "none" if over else f"{episodes.request[0, PROMPT_TOKENS]:,.0f} tokens"),
            ),
        )
