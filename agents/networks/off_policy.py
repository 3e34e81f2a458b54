"""Networks as policies of Stable-Baselines3 that learn from a replay buffer, and act legally by themselves.

They are made of networks whose scores of illegal actions are far below all others (`RouterNetwork`). Read as
a value, a score is how much better an action is than the state: Q(s, a) = V(s) + A(s, a) (Wang et al.,
Dueling Network Architectures, arXiv 1511.06581, without their centring). So a network that scores replicas by
the same weights values them by the same weights.
"""

import copy
import math
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from servegym.agents.networks.action_network import ILLEGAL_LOGIT, ActionNetwork
from servegym.agents.networks.build import build_network

FIRST_TEMPERATURE = 0.1
"""Of soft actor-critic (ours): rewards are normalised, and a warmer start forgets them for long."""


def action_values(network: ActionNetwork, observation: Any) -> Tensor:
    """Q (B, A) of every action by `network`; about ILLEGAL_LOGIT where it is not legal."""
    advantages, values = network.scores(observation)
    return advantages + values.unsqueeze(1)


class ReplayPolicy(BasePolicy):
    """What both policies share: networks of one kind, of which `network` is the one that acts.

    network: a name of NETWORKS, with its width and number of layers.
    """

    network: ActionNetwork

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        network: str = "gnn",
        hidden: int = 64,
        layers: int = 2,
        **sb3_options: Any,
    ) -> None:
        super().__init__(observation_space, action_space, **sb3_options)
        self.network_options: dict[str, Any] = {"network": network, "hidden": hidden, "layers": layers}
        self.network = self._new_network()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr_schedule(1), fused=True)

    def _new_network(self) -> ActionNetwork:
        assert isinstance(self.action_space, spaces.Discrete)
        name, hidden, layers = self.network_options.values()
        return build_network(name, int(self.action_space.n), hidden, layers)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        schedule = {"lr_schedule": self._dummy_schedule}  # of a policy that is only loaded
        return super()._get_constructor_parameters() | schedule | self.network_options

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """By the name of the attribute."""
        return {"optimizer": self.optimizer}


class SoftActorCriticPolicy(ReplayPolicy):
    """An actor, two critics with their slow copies, and the temperature; acts by the actor's distribution."""

    def __init__(self, *spaces_and_schedule: Any, **options: Any) -> None:
        super().__init__(*spaces_and_schedule, **options)
        learning_rate = spaces_and_schedule[2](1)
        self.critics = nn.ModuleList(self._new_network() for _ in range(2))
        self.targets = copy.deepcopy(self.critics).requires_grad_(requires_grad=False)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(FIRST_TEMPERATURE)))
        self.critic_optimizer = torch.optim.Adam(self.critics.parameters(), learning_rate, fused=True)
        self.temperature_optimizer = torch.optim.Adam([self.log_temperature], learning_rate, fused=True)

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """By the name of the attribute."""
        others = {name: getattr(self, name) for name in ("critic_optimizer", "temperature_optimizer")}
        return super().optimizers() | others

    def log_probabilities(self, observation: PyTorchObs) -> Tensor:
        """Of every action, (B, A); about ILLEGAL_LOGIT where it is not legal."""
        logits, _ = self.network.scores(observation)
        return logits.log_softmax(dim=1)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        logits, _ = self.network.scores(observation)
        if deterministic:
            return self.network.best(logits)
        return torch.multinomial(logits.softmax(dim=1), 1).squeeze(1)


class EpsilonGreedyPolicy(ReplayPolicy):
    """Values of actions and their slow copy; acts by the largest, or at random with probability `epsilon`."""

    epsilon: Tensor

    def __init__(self, *spaces_and_schedule: Any, **options: Any) -> None:
        super().__init__(*spaces_and_schedule, **options)
        self.target = copy.deepcopy(self.network).requires_grad_(requires_grad=False)
        self.register_buffer("epsilon", torch.tensor(1.0))

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        values = action_values(self.network, observation)
        greedy = self.network.best(values)
        if deterministic:
            return greedy
        legal = (values > ILLEGAL_LOGIT / 2).float()
        at_random = torch.multinomial(legal, 1).squeeze(1)
        return torch.where(torch.rand(len(values)) < self.epsilon, at_random, greedy)
