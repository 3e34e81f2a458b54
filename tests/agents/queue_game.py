"""A routing game in which each decision is an episode, so that what is best is known."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from servegym.agents.serving.artifact.golden import plausible_observation
from servegym.envs.sim.llm import view


def shortest_queue(observation: dict[str, np.ndarray]) -> np.ndarray:
    """The legal replica with the fewest queued prefill tokens, (K,)."""
    replicas = observation["replicas"]
    queued = replicas[..., view.QUEUED_PREFILL_TOKENS].astype(np.float64)
    return np.where(replicas[..., view.AVAILABLE] > 0, queued, np.inf).argmin(axis=1)


def what_is_seen(rng: np.random.Generator, num_observations: int, num_replicas: int) -> dict[str, np.ndarray]:
    """With clocks that stand still, so that forecasts, by which an untrained network goes, say nothing."""
    observation = plausible_observation("router", rng, num_observations, num_replicas)
    observation["setting"][:] = 0.0
    observation["replicas"][..., view.ITERATION_LEFT_S] = 0.0
    return observation


class QueueGame(VecEnv):
    """The reward is minus `unit_s` times the prefill tokens queued at the replica chosen."""

    render_mode = None

    def __init__(self, num_envs: int = 16, num_replicas: int = 4, unit_s: float = 1e-4) -> None:
        observation_space = spaces.Dict(
            {
                "request": spaces.Box(0, np.inf, (view.REQUEST_FEATURES,), np.float32),
                "replicas": spaces.Box(0, np.inf, (num_replicas, view.REPLICA_FEATURES), np.float32),
                "setting": spaces.Box(0, np.inf, (view.SETTING_FEATURES,), np.float32),
            }
        )
        super().__init__(num_envs, observation_space, spaces.Discrete(num_replicas))
        self.unit_s, self.num_replicas = unit_s, num_replicas
        self.num_illegal = 0

    def reset(self) -> dict[str, np.ndarray]:
        self.rng = np.random.default_rng(self._seeds[0])
        return self._draw()

    def _draw(self) -> dict[str, np.ndarray]:
        self.now = what_is_seen(self.rng, self.num_envs, self.num_replicas)
        return self.now

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> tuple[Any, ...]:
        chosen = self.now["replicas"][np.arange(self.num_envs), self.actions]
        self.num_illegal += int((chosen[:, view.AVAILABLE] == 0).sum())
        rewards = -self.unit_s * chosen[:, view.QUEUED_PREFILL_TOKENS]
        return self._draw(), rewards, np.ones(self.num_envs, bool), [{} for _ in range(self.num_envs)]

    def close(self) -> None: ...

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs
