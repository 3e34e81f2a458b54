"""Rewards divided by the spread of the discounted return, observations as they are."""

from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

CLIP = 10.0
"""Normalised rewards stay within plus and minus this, SB3's default."""


class NormalisedRewards(VecNormalize):
    """SB3's `VecNormalize` of rewards only, without its copies of observations.

    So rewards of any unit suit the same step sizes.
    """

    def __init__(self, vec_env: VecEnv, gamma: float) -> None:
        super().__init__(vec_env, norm_obs=False, clip_reward=CLIP, gamma=gamma)

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
