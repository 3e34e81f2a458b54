"""Rewards divided by the spread of the discounted return, observations as they are."""

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

CLIP = 10.0
"""Normalised rewards stay within plus and minus this, SB3's default."""


class NormalisedRewards(VecNormalize):
    """SB3's `VecNormalize` of rewards only, without its copies of observations.

    So rewards of any unit suit the same step sizes. It remembers all actions since the last reset, two bytes
    each, for checkpoints.
    """

    def __init__(self, vec_env: VecEnv, gamma: float) -> None:
        super().__init__(vec_env, norm_obs=False, clip_reward=CLIP, gamma=gamma)
        self._taken = bytearray()

    def __getstate__(self) -> dict[str, Any]:
        """As its base, without the actions: who saves them asks for them."""
        return super().__getstate__() | {"_taken": bytearray()}

    def reset(self) -> Any:
        """Starts new episodes, and forgets the actions."""
        self._taken = bytearray()
        return super().reset()

    def actions_taken(self) -> np.ndarray:
        """Since the last reset, int16 (T, K)."""
        return np.frombuffer(bytes(self._taken), np.int16).reshape(-1, self.num_envs)

    def play_again(self, actions: np.ndarray) -> tuple[Any, np.ndarray]:
        """A step with actions of long ago, int64 (K,): rewards have been counted then.

        Returns the observation and which episodes ended.
        """
        self._remember(actions)
        self.venv.step_async(actions)
        self.old_obs, _, dones, _ = self.venv.step_wait()  # type: ignore[assignment]
        return self.old_obs, dones

    def step_async(self, actions: np.ndarray) -> None:
        """Remembers the actions and hands them on."""
        self._remember(actions)
        super().step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """A step of the environments, with rewards normalised by all that came so far."""
        observation, rewards, dones, infos = self.venv.step_wait()
        assert not isinstance(observation, tuple)  # none of SB3's spaces has one
        self.old_obs, self.old_reward = observation, rewards
        if self.training:
            self._update_reward(rewards)
        rewards = self.normalize_reward(rewards)
        self.returns[dones] = 0.0
        return observation, rewards, dones, infos

    def _remember(self, actions: np.ndarray) -> None:
        self._taken += actions.astype(np.int16).tobytes()
