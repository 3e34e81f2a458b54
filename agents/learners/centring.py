"""Rewards counted against their average: for problems without end, and decisions that take unequal time."""

from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from servegym.agents.learners.normalised_rewards import NormalisedRewards

MEMORY = 0.999
"""What is left of a step's weight in the average after the next (ours): of a rollout of 128 steps 88 %."""


def decisions_made(observation: Any, actions: np.ndarray) -> np.ndarray:
    """Each action as one unit of work, where an episode has as many for every policy."""
    return np.ones(len(actions))


class CentredRewards(NormalisedRewards):
    """Adds to each reward what the work done by its action costs on average, then normalises as its base.

    work: of an observation and actions (K,), how much each does of a total that is the same for every policy:
    requests served.
    So the sum over an episode changes by the same for all policies, while the discounted one no longer
    favours who puts work off: the discount is by decisions, and a decision to wait is over sooner. It is
    reward centring (Naik et al., "Reward Centering", arXiv 2405.09999), by work in place of time.
    """

    def __init__(self, vec_env: VecEnv, work: Callable[[Any, np.ndarray], np.ndarray], gamma: float) -> None:
        super().__init__(vec_env, gamma)
        self.work = work
        self.mean_reward = 0.0  # of a unit of work
        self._reward_sum = self._work_sum = 0.0
        self._done = np.zeros(vec_env.num_envs)

    def step_async(self, actions: np.ndarray) -> None:
        """Keeps what the actions do."""
        self._done = self.work(self.old_obs, actions)
        super().step_async(actions)

    def _update_reward(self, reward: np.ndarray) -> None:
        self._reward_sum = MEMORY * self._reward_sum + reward.sum()
        self._work_sum = MEMORY * self._work_sum + self._done.sum()
        if self._work_sum > 0:
            self.mean_reward = self._reward_sum / self._work_sum
        super()._update_reward(self._centred(reward))

    def normalize_reward(self, reward: np.ndarray) -> np.ndarray:
        """Centred and divided by the standard deviation of the discounted return."""
        return super().normalize_reward(self._centred(reward))

    def _centred(self, reward: np.ndarray) -> np.ndarray:
        return reward - self.mean_reward * self._done
