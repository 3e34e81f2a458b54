"""Scenarios whose costs differ in size are learnt from alike."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from servegym.agents.learners.by_scenario import NormalisedByScenario


class Noise(VecEnv):
    """Rewards of a thousand in the last two of four environments, of one in the others."""

    render_mode = None

    def __init__(self) -> None:
        super().__init__(4, spaces.Box(0, 1, (1,)), spaces.Discrete(2))
        self.rng = np.random.default_rng(0)

    def reset(self) -> np.ndarray:
        return np.zeros((4, 1), np.float32)

    def step_async(self, actions: np.ndarray) -> None: ...

    def step_wait(self) -> tuple[Any, ...]:
        rewards = self.rng.normal(size=4) * np.array([1.0, 1.0, 1e3, 1e3])
        return np.zeros((4, 1), np.float32), rewards, np.zeros(4, np.bool_), [{}] * 4

    def close(self) -> None: ...

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name)] * 4

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None: ...

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * 4


def test_rewards_of_each_scenario_have_the_same_spread() -> None:
    env = NormalisedByScenario(Noise(), np.array([0, 0, 1, 1]), gamma=0.5)
    env.reset()
    rewards = np.array([env.step(np.zeros(4, np.int64))[1] for _ in range(2000)])[500:]
    spreads = rewards.std(axis=0)
    np.testing.assert_allclose(spreads, np.sqrt(1 - 0.5**2), rtol=0.1)  # of a discounted sum of noise it is 1
