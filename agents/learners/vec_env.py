"""The native vector environment as a Stable-Baselines3 `VecEnv`, without a Python loop over environments."""

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from servegym.envs.suite_vector import SuiteVectorEnv
from servegym.envs.vector import NativeVectorEnv


class SB3VecEnv(VecEnv):
    """Presents a `NativeVectorEnv` to Stable-Baselines3 and sb3-contrib.

    `infos` are empty dicts but for episodes that ended: `terminal_observation`, `episode_metrics`, `workload`
    and SB3's `episode` record (return `r`, length `l`). `env_method("action_masks")` serves MaskablePPO.
    """

    def __init__(self, env: NativeVectorEnv | SuiteVectorEnv) -> None:
        self.env = env  # before the base class asks it for its render mode
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self._actions = np.zeros(env.num_envs, np.int64)
        self._returns = np.zeros(env.num_envs)
        self._lengths = np.zeros(env.num_envs, np.int64)
        self._no_infos: list[dict[str, Any]] = [{} for _ in range(env.num_envs)]

    def reset(self) -> VecEnvObs:
        """Starts new episodes; `seed(s)` before it seeds environment k with s + k."""
        seeds = None if self._seeds[0] is None else list(self._seeds)
        observation: VecEnvObs = self.env.reset(seed=seeds)[0]
        self._reset_seeds()
        self._returns[:] = 0.0
        self._lengths[:] = 0
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        """Keeps the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Steps every environment."""
        observation, rewards, terminations, _, infos = self.env.step(self._actions)
        self._returns += rewards
        self._lengths += 1
        if not infos:
            return observation, rewards, terminations, self._no_infos
        info_list: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for k in np.flatnonzero(terminations):
            info_list[k] = {
                "terminal_observation": infos["final_obs"][k],
                "episode_metrics": infos["final_info"]["episode_metrics"][k],
                "workload": infos["final_info"]["workload"][k],
                "episode": {"r": float(self._returns[k]), "l": int(self._lengths[k])},
            }
        self._returns[terminations] = 0.0
        self._lengths[terminations] = 0
        return observation, rewards, terminations, info_list

    def close(self) -> None:
        """Nothing to release."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute of the vector environment, once per index."""
        return [getattr(self.env, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Not possible for one environment of a native batch."""
        raise AttributeError(f"{attr_name} of single environments in a native batch cannot be set")

    def env_method(
        self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any
    ) -> list[Any]:
        """Calls a method of the vector environment and hands out its rows."""
        rows = getattr(self.env, method_name)(*args, **kwargs)
        return [rows[k] for k in self._get_indices(indices)]

    def has_attr(self, attr_name: str) -> bool:
        """Whether the vector environment has the attribute."""
        return hasattr(self.env, attr_name)

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """Never: there are no wrappers inside a native batch."""
        return [False for _ in self._get_indices(indices)]
