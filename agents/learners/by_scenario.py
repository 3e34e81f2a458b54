"""Rewards of several scenarios on one scale: each is divided by the spread of its own returns."""

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv

from servegym.agents.learners.normalised_rewards import NormalisedRewards


class NormalisedByScenario(NormalisedRewards):
    """As its base, with the standard deviation of the discounted return kept for each scenario.

    part_of: int64 (K,), the scenario of each environment. A heavily loaded fleet, whose returns are a hundred
    times those of a light one, would otherwise be all that is learnt from.
    """

    def __init__(self, vec_env: VecEnv, part_of: np.ndarray, gamma: float) -> None:
        super().__init__(vec_env, gamma)
        self.part_of = part_of
        self.of_parts = [RunningMeanStd(shape=()) for _ in range(int(part_of.max()) + 1)]

    def _update_reward(self, reward: np.ndarray) -> None:
        self.returns = self.returns * self.gamma + reward
        for part, statistics in enumerate(self.of_parts):
            statistics.update(self.returns[self.part_of == part])

    def normalize_reward(self, reward: np.ndarray) -> np.ndarray:
        """Divided by the standard deviation of its scenario's returns, and clipped."""
        variances = np.array([statistics.var for statistics in self.of_parts])
        scaled = reward / np.sqrt(variances[self.part_of] + self.epsilon)
        clipped: np.ndarray = np.clip(scaled, -self.clip_reward, self.clip_reward).astype(reward.dtype)
        return clipped
