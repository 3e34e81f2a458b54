"""Soft actor-critic for discrete actions (Christodoulou, arXiv 1910.07207)."""

from pathlib import Path
from typing import Any, cast

import torch
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.nn.functional import mse_loss

from servegym.agents.learners.config import DiscreteSACConfig
from servegym.agents.learners.replay import ReplayLearner, build_replay_learner
from servegym.agents.networks.action_network import ILLEGAL_LOGIT, ActionNetwork
from servegym.agents.networks.off_policy import SoftActorCriticPolicy, action_values


class DiscreteSAC(ReplayLearner):
    """Expectations over actions are sums over them, with the probabilities that the actor gives.

    The temperature is learnt: it rises where the entropy is below `entropy_share` of that of the uniform
    distribution over the legal actions, and falls where it is above.
    """

    policy: SoftActorCriticPolicy
    config: DiscreteSACConfig

    def update(self, batch: ReplayBufferSamples) -> dict[str, float]:
        """Critics, actor, temperature, and the critics' slow copies."""
        policy, observation = self.policy, batch.observations
        temperature = policy.log_temperature.exp().detach()
        with torch.no_grad():
            following = self._soft_values(batch.next_observations, temperature)
            target = batch.rewards + (1 - batch.dones) * self.gamma * following
        first, second = (values.gather(1, batch.actions) for values in _values(policy.critics, observation))
        of_critics = mse_loss(first, target) + mse_loss(second, target)
        critic_loss = self.minimise(of_critics, policy.critic_optimizer)

        log_probabilities = policy.log_probabilities(observation)
        probabilities = log_probabilities.exp()
        with torch.no_grad():
            values = _least(policy.critics, observation)
        of_actor = (probabilities * (temperature * log_probabilities - values)).sum(dim=1).mean()
        self.minimise(of_actor, policy.optimizer)

        entropy = -(probabilities * log_probabilities).sum(dim=1).detach()
        legal = (log_probabilities > ILLEGAL_LOGIT / 2).sum(dim=1)
        wanted = self.config.entropy_share * legal.log()
        self.minimise(policy.log_temperature * (entropy - wanted).mean(), policy.temperature_optimizer)

        polyak_update(policy.critics.parameters(), policy.targets.parameters(), self.tau)
        return {
            "critic_loss": critic_loss,
            "entropy": float(entropy.mean()),
            "temperature": float(temperature),
        }

    def _soft_values(self, observation: Any, temperature: Tensor) -> Tensor:
        """Of states, (B, 1): values expected under the actor and its entropy, by the slow critics."""
        log_probabilities = self.policy.log_probabilities(observation)
        values = _least(self.policy.targets, observation) - temperature * log_probabilities
        return (log_probabilities.exp() * values).sum(dim=1, keepdim=True)


def _values(critics: torch.nn.ModuleList, observation: Any) -> list[Tensor]:
    """Of both critics, each (B, A)."""
    return [action_values(cast(ActionNetwork, critic), observation) for critic in critics]


def _least(critics: torch.nn.ModuleList, observation: Any) -> Tensor:
    """Of both critics' values (B, A) the smaller: one alone is too hopeful."""
    return torch.minimum(*_values(critics, observation))


def build_discrete_sac(
    config: DiscreteSACConfig, vec_env: VecEnv, seed: int, tensorboard_dir: Path | None = None
) -> DiscreteSAC:
    """A fresh learner, see `build_replay_learner`."""
    return build_replay_learner(DiscreteSAC, SoftActorCriticPolicy, config, vec_env, seed, tensorboard_dir)
