"""The native vector form of `servegym/Batching-v0`: one call takes a decision in every episode."""

from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from servegym.envs.batching.env import DEFAULT_SCENARIO, action_space
from servegym.envs.batching.episodes import BatchingEpisodes
from servegym.envs.batching.observation import observation_of, observation_space
from servegym.envs.metrics import summarise
from servegym.envs.routing.stream import EpisodeStream
from servegym.envs.scenario import Scenario, load_scenario


class BatchingVectorEnv(VectorEnv[Any, np.ndarray, np.ndarray]):
    """`num_envs` scheduling episodes, see `BatchingEnv` for what they are.

    An episode that ends restarts in the same step (`AutoresetMode.SAME_STEP`); `infos` is empty except
    then, when it holds `final_obs` and `final_info` (with `episode_metrics`) of the episodes that ended.
    With copy=False the observation arrays are reused by the next step. Environment k with seed s follows the
    same episodes as a single one with seed s + k, to the bit.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(
        self,
        num_envs: int = 64,
        scenario: str | Scenario = DEFAULT_SCENARIO,
        split: str = "train",
        action: str = "discrete",
        flat: bool = False,
        copy: bool = True,
    ) -> None:
        self.num_envs = num_envs
        self.scenario = load_scenario(scenario) if isinstance(scenario, str) else scenario
        self._streams = [EpisodeStream(self.scenario, split) for _ in range(num_envs)]
        self._episodes = BatchingEpisodes(self.scenario, num_envs, self._streams[0].max_requests)
        self._action, self._flat, self._copy = action, flat, copy
        self.single_observation_space = observation_space(flat)
        self.single_action_space = action_space(action)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Starts a new episode everywhere; a number seeds environment k with seed + k."""
        if seed is not None:
            seeds = [seed + k for k in range(self.num_envs)] if isinstance(seed, int) else seed
            for stream, stream_seed in zip(self._streams, seeds, strict=True):
                stream.restart(stream_seed)
        for episode_id in range(self.num_envs):
            self._begin(episode_id)
        return self._observation(), {}

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes a decision (continuous: those of an iteration) in every episode: actions (num_envs, ...)."""
        episodes = self._episodes
        if self._action == "discrete":
            episodes.step(np.asarray(actions, np.int64))
        else:
            episodes.step_by_scores(np.asarray(actions, np.float64))
        terminations = episodes.finished.copy()
        infos = self._restart_finished(terminations) if terminations.any() else {}
        truncations = np.zeros(self.num_envs, np.bool_)
        return self._observation(), episodes.rewards.copy(), terminations, truncations, infos

    def action_masks(self) -> np.ndarray:
        """bool (num_envs, 68): True where a discrete action is legal."""
        return self._episodes.masks.copy()

    def _begin(self, episode_id: int) -> None:
        self._episodes.begin(episode_id, self._streams[episode_id].next_workload())

    def _restart_finished(self, finished: np.ndarray) -> dict[str, Any]:
        """The infos of the episodes that ended, which are begun anew."""
        final_obs = np.full(self.num_envs, None, object)
        metrics = np.full(self.num_envs, None, object)
        for episode_id in np.flatnonzero(finished).tolist():
            final_obs[episode_id] = observation_of(self._episodes.rows[episode_id].copy(), self._flat)
            metrics[episode_id] = summarise(self._episodes.results(episode_id))
            self._begin(episode_id)
        final_info = {"episode_metrics": metrics, "_episode_metrics": finished}
        return {
            "final_obs": final_obs,
            "_final_obs": finished,
            "final_info": final_info,
            "_final_info": finished,
        }

    def _observation(self) -> Any:
        rows = self._episodes.rows
        return observation_of(rows.copy() if self._copy else rows, self._flat)
