"""The native vector form of an environment: one call takes a decision in every episode."""

from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from servegym.envs.flat import flatten
from servegym.envs.problem import Observation, Problem


class NativeVectorEnv(VectorEnv[Observation, np.ndarray, np.ndarray]):
    """`num_envs` episodes of a problem, advanced by one native call.

    An episode that ends restarts in the same step (`AutoresetMode.SAME_STEP`); `infos` is empty except then,
    when it holds `final_obs` and `final_info` (with `episode_metrics`, and the `workload` that it was an
    episode of) of the episodes that ended.
    With copy=False the observation arrays are reused by the next step. Environment k with seed s follows the
    same episodes as a single one with seed s + k, to the bit.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, problem: Problem[Any], copy: bool) -> None:
        self.num_envs = len(problem.streams)
        self.scenario = problem.streams[0].scenario
        self.single_observation_space = problem.observation_space
        self.single_action_space = problem.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._problem, self._episodes, self._copy = problem, problem.episodes, copy
        self._flat = np.zeros(self.observation_space.shape or (), np.float32) if problem.flat else None
        self._action_dtype = np.int64 if isinstance(problem.action_space, Discrete) else np.float64

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts a new episode everywhere; a number seeds environment k with seed + k."""
        if seed is not None:
            seeds = [seed + k for k in range(self.num_envs)] if isinstance(seed, int) else seed
            for stream, stream_seed in zip(self._problem.streams, seeds, strict=True):
                stream.restart(stream_seed)
        for episode_id in range(self.num_envs):
            self._problem.begin(episode_id)
        return self._observation(), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes a decision in every episode: actions (num_envs, ...)."""
        self._problem.step(np.asarray(actions, self._action_dtype))
        rewards, terminations = self._episodes.rewards.copy(), self._episodes.finished.copy()
        infos = self._restart(terminations) if np.count_nonzero(terminations) else {}
        return self._observation(), rewards, terminations, np.zeros(self.num_envs, np.bool_), infos

    def action_masks(self) -> np.ndarray:
        """bool (num_envs, actions): True where an action is legal."""
        return self._episodes.legal_actions()

    def _restart(self, finished: np.ndarray) -> dict[str, Any]:
        """The infos of the episodes that ended, which are begun anew."""
        final_obs = np.full(self.num_envs, None, object)
        metrics = np.full(self.num_envs, None, object)
        workloads = np.full(self.num_envs, None, object)
        for episode_id in np.flatnonzero(finished).tolist():
            final_obs[episode_id] = self._problem.seen(episode_id)
            metrics[episode_id] = self._problem.metrics(episode_id)
            workloads[episode_id] = self._problem.workloads[episode_id]
            self._problem.begin(episode_id)
        final_info = {"episode_metrics": metrics, "_episode_metrics": finished, "workload": workloads}
        return {
            "final_obs": final_obs,
            "_final_obs": finished,
            "final_info": final_info,
            "_final_info": finished,
        }

    def _observation(self) -> Observation:
        if self._copy:
            return self._problem.seen(slice(None))
        if self._flat is not None:
            return flatten(self._problem.observation, slice(None), self._flat)
        return self._problem.observation
