"""Double DQN (van Hasselt, Guez, Silver, arXiv 1509.06461): values of actions, from remembered decisions."""

from pathlib import Path

import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.common.vec_env import VecEnv
from torch.nn.functional import smooth_l1_loss

from servegym.agents.learners.config import DoubleDQNConfig
from servegym.agents.learners.replay import ReplayLearner, build_replay_learner
from servegym.agents.networks.off_policy import EpsilonGreedyPolicy, action_values


class DoubleDQN(ReplayLearner):
    """The network says which action follows, its slow copy what that is worth.

    What is tried at random falls from everything to `final_epsilon` over the first `exploration_share` of the
    run.
    """

    policy: EpsilonGreedyPolicy
    config: DoubleDQNConfig

    def _on_step(self) -> None:
        progress = 1.0 - self._current_progress_remaining
        left = 1.0 - progress / self.config.exploration_share
        self.policy.epsilon.fill_(max(left, self.config.final_epsilon))

    def update(self, batch: ReplayBufferSamples) -> dict[str, float]:
        """The network, then its slow copy."""
        policy = self.policy
        with torch.no_grad():
            best = policy.network.best(action_values(policy.network, batch.next_observations)).unsqueeze(1)
            following = action_values(policy.target, batch.next_observations).gather(1, best)
            target = batch.rewards + (1 - batch.dones) * self.gamma * following
        values = action_values(policy.network, batch.observations).gather(1, batch.actions)
        loss = self.minimise(smooth_l1_loss(values, target), policy.optimizer)
        polyak_update(policy.network.parameters(), policy.target.parameters(), self.config.tau)
        return {"loss": loss, "epsilon": float(policy.epsilon)}


def build_double_dqn(
    config: DoubleDQNConfig, vec_env: VecEnv, seed: int, tensorboard_dir: Path | None = None
) -> DoubleDQN:
    """A fresh learner, see `build_replay_learner`."""
    return build_replay_learner(DoubleDQN, EpsilonGreedyPolicy, config, vec_env, seed, tensorboard_dir)
