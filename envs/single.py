"""The single form of an environment: one episode at a time, which can be drawn."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from servegym.envs.problem import Observation, Problem
from servegym.envs.viewer import (
    RENDER_FPS,
    RENDER_MODES,
    Facts,
    Frame,
    Part,
    Viewer,
    usable_render_modes,
)


class NativeEnv(gym.Env[Observation, Any]):
    """One episode of a problem at a time. An instance's `metadata` lists the render modes of its machine.

    lay_out: of the pictures, see `Viewer`; `_picture` gives what they show.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": RENDER_FPS}

    def __init__(
        self,
        problem: Problem[Any],
        render_mode: str | None,
        env_id: str,
        lay_out: Callable[[Any], Sequence[Part]],
    ) -> None:
        self.metadata = {**self.metadata, "render_modes": usable_render_modes()}
        self.render_mode = render_mode
        self.scenario = problem.streams[0].scenario
        self.observation_space = problem.observation_space
        self.action_space = problem.action_space
        self._problem, self._episodes = problem, problem.episodes
        self._action_dtype = np.int64 if isinstance(problem.action_space, gym.spaces.Discrete) else np.float64
        self._last_action: Any = None
        self._viewer: Viewer | None = None
        if render_mode is not None:
            self._viewer = Viewer(render_mode, f"{env_id}, {self.scenario.name}", lay_out)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts the next episode of the stream, or the first of stream `seed`."""
        super().reset(seed=seed)
        if seed is not None:
            self._problem.streams[0].restart(seed)
        self._problem.begin(0)
        self._last_action = None
        if self.render_mode == "human":
            self.render()
        return self._problem.seen(0), {}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Takes one decision and goes on to the next one."""
        if self._episodes.finished[0]:
            raise RuntimeError("the episode is over: call reset() before step()")
        self._problem.step(np.asarray(action, self._action_dtype)[None])
        self._last_action = action
        if self.render_mode == "human":
            self.render()
        terminated = bool(self._episodes.finished[0])
        info = {"episode_metrics": self._problem.metrics(0)} if terminated else {}
        return self._problem.seen(0), float(self._episodes.rewards[0]), terminated, False, info

    def render(self) -> Frame | None:
        """The instant of the current decision: uint8 (600, 960, 3) in mode rgb_array, else None."""
        if self._viewer is None:
            gym.logger.warn("render() draws nothing: the environment was made without a render_mode")
            return None
        return self._viewer.draw(*self._picture())

    def close(self) -> None:
        """Closes the window, if there is one."""
        if self._viewer is not None:
            self._viewer.close()

    def action_masks(self) -> np.ndarray:
        """bool (actions,): True where an action is legal."""
        masks: np.ndarray = self._episodes.legal_actions()[0]
        return masks

    def _picture(self) -> tuple[Facts, Sequence[Any]]:
        """The line of facts, and a snapshot for each part of the picture."""
        raise NotImplementedError
