"""The native vector environments of several scenarios as one: what a generalist is trained in."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from servegym.costmodels.errors import InputError
from servegym.envs.problem import Observation
from servegym.envs.vector import NativeVectorEnv


class SuiteVectorEnv(VectorEnv[Observation, np.ndarray, np.ndarray]):
    """The episodes of all `parts`, one part after another; a step is one native call for each part.

    part_of: int64 (num_envs,), the part that an episode belongs to. With seed s environment k follows the
    stream s + k of its part. Infos as in `NativeVectorEnv`. InputError where the parts differ in spaces.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(self, parts: Sequence[NativeVectorEnv]) -> None:
        first = parts[0]
        for part in parts:
            same = part.single_observation_space == first.single_observation_space
            if not same or part.single_action_space != first.single_action_space:
                raise InputError(
                    f"scenario {part.scenario.name}: its observations or actions have other shapes than "
                    f"those of {first.scenario.name}: must be equal to be trained on together"
                )
        self.parts = list(parts)
        self.part_of = np.repeat(np.arange(len(parts)), [part.num_envs for part in parts])
        self.num_envs = len(self.part_of)
        self.single_observation_space = first.single_observation_space
        self.single_action_space = first.single_action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        ends = np.cumsum([part.num_envs for part in parts]).tolist()
        self._slices = [slice(end - part.num_envs, end) for end, part in zip(ends, parts, strict=True)]

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts a new episode everywhere; a number seeds environment k with seed + k."""
        seeds: list[int | None] | None = None
        if seed is not None:
            seeds = [seed + k for k in range(self.num_envs)] if isinstance(seed, int) else seed
        observations = [
            part.reset(seed=None if seeds is None else seeds[place])[0]
            for part, place in zip(self.parts, self._slices, strict=True)
        ]
        return _joined(observations), {}

    def step(
        self, actions: np.ndarray
    ) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes a decision in every episode: actions (num_envs, ...)."""
        steps = [part.step(actions[place]) for part, place in zip(self.parts, self._slices, strict=True)]
        observations, rewards, terminations, truncations, infos = zip(*steps, strict=True)
        return (
            _joined(observations),
            np.concatenate(rewards),
            np.concatenate(terminations),
            np.concatenate(truncations),
            self._joined_infos(infos),
        )

    def action_masks(self) -> np.ndarray:
        """bool (num_envs, actions): True where an action is legal."""
        return np.concatenate([part.action_masks() for part in self.parts])

    def _joined_infos(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
        if not any(infos):
            return {}
        final_obs = np.full(self.num_envs, None, object)
        metrics = np.full(self.num_envs, None, object)
        workloads = np.full(self.num_envs, None, object)
        finished = np.zeros(self.num_envs, np.bool_)
        for place, info in zip(self._slices, infos, strict=True):
            if info:
                final_obs[place] = info["final_obs"]
                metrics[place] = info["final_info"]["episode_metrics"]
                workloads[place] = info["final_info"]["workload"]
                finished[place] = info["_final_obs"]
        final_info = {"episode_metrics": metrics, "_episode_metrics": finished, "workload": workloads}
        return {
            "final_obs": final_obs,
            "_final_obs": finished,
            "final_info": final_info,
            "_final_info": finished,
        }


def _joined(observations: Sequence[Observation]) -> Observation:
    first = observations[0]
    if isinstance(first, dict):
        return {key: np.concatenate([each[key] for each in observations]) for key in first}
    return np.concatenate(observations)
