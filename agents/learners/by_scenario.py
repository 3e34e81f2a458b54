"""Rewards of several scenarios on one scale: each is divided by the spread of its own returns."""

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv

from servegym.agents.learners.centring import MEMORY, CentredRewards, decisions_made
from servegym.agents.learners.normalised_rewards import NormalisedRewards


class NormalisedByScenario(NormalisedRewards):
    """As its base, with the standard deviation of the discounted return kept for each scenario.

    part_of: int64 (K,), the scenario of each environment. A heavily loaded fleet, whose returns are a hundred
    times those of a light one, would otherwise be all that is learnt from. centred: whether rewards count
    against the average of their scenario, as in centring.py.
    """

    def __init__(self, vec_env: VecEnv, part_of: np.ndarray, gamma: float, centred: bool = False) -> None:
        super().__init__(vec_env, gamma)
        self.centred = centred
        self.part_of = part_of
        self.of_parts = [RunningMeanStd(shape=()) for _ in range(int(part_of.max()) + 1)]
        self._sizes = np.bincount(part_of)
        self._steps = 0.0  # that the averages are over, each weighed by MEMORY to its age
        self._sums, self.means = np.zeros(len(self.of_parts)), np.zeros(len(self.of_parts))

    def _update_reward(self, reward: np.ndarray) -> None:
        if self.centred:
            self._steps = MEMORY * self._steps + 1.0
            self._sums = MEMORY * self._sums + np.bincount(self.part_of, reward) / self._sizes
            self.means = self._sums / self._steps
        self.returns = self.returns * self.gamma + reward - self.means[self.part_of]
        for part, statistics in enumerate(self.of_parts):
            statistics.update(self.returns[self.part_of == part])

    def normalize_reward(self, reward: np.ndarray) -> np.ndarray:
        """Less the average if centred, divided by the deviation of its scenario's returns, and clipped."""
        variances = np.array([statistics.var for statistics in self.of_parts])
        scaled = (reward - self.means[self.part_of]) / np.sqrt(variances[self.part_of] + self.epsilon)
        clipped: np.ndarray = np.clip(scaled, -self.clip_reward, self.clip_reward).astype(reward.dtype)
        return clipped


def normalised(vec_env: VecEnv, gamma: float, centred: bool = False) -> NormalisedRewards:
    """Rewards of `vec_env` on one scale, by scenario where its environments are of several.

    centred: whether they count against their average.
    """
    part_of = getattr(getattr(vec_env, "env", None), "part_of", None)
    if part_of is not None:
        return NormalisedByScenario(vec_env, part_of, gamma, centred)
    if centred:
        return CentredRewards(vec_env, decisions_made, gamma)
    return NormalisedRewards(vec_env, gamma)
