"""A network as a policy of Stable-Baselines3, which PPO trains, plain or with masked actions.

Logits and value come straight from the network; nothing that depends on the number of actions is put on
top.
"""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import MaskableDistribution
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from servegym.agents.networks.action_network import ILLEGAL_LOGIT, ActionNetwork
from servegym.agents.networks.build import build_network
from servegym.agents.networks.choices import Choices


class _ByNetwork:
    """What both policies share: actor and critic are one `ActionNetwork`, at `.network`.

    `network` is a name of NETWORKS; further keywords are those of SB3's policies (optimiser).
    """

    network: ActionNetwork
    action_space: spaces.Space[Any]

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
        self.network_options: dict[str, Any] = {"network": network, "hidden": hidden, "layers": layers}
        is_dict = isinstance(observation_space, spaces.Dict)
        super().__init__(  # type: ignore[call-arg]  # of SB3's policy, which comes next
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[],
            # has no weights, and is not called
            features_extractor_class=CombinedExtractor if is_dict else FlattenExtractor,
            **sb3_options,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        assert isinstance(self.action_space, spaces.Discrete)
        name, hidden, layers = self.network_options.values()
        self.network = build_network(name, int(self.action_space.n), hidden, layers)
        options = {"lr": lr_schedule(1)} | self.optimizer_kwargs  # type: ignore[attr-defined]
        self.optimizer = self.optimizer_class(self.network.parameters(), **options)  # type: ignore[attr-defined]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters() | self.network_options  # type: ignore[misc]
        for fixed in ("net_arch", "features_extractor_class"):
            del parameters[fixed]
        return dict(parameters)


class RouterPolicy(_ByNetwork, ActorCriticPolicy):
    """A network that gives illegal actions probability 0 by itself: the mask is part of what it observes.

    So plain PPO always acts legally and needs no masks beside the observation.
    """

    def _evaluate(self, obs: Any) -> tuple[Choices, Tensor]:
        logits, value = self.network.scores(obs)
        return Choices(logits), value.unsqueeze(-1)

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (B,), values (B, 1) and log probabilities (B,)."""
        choices, values = self._evaluate(obs)
        actions = choices.likeliest() if deterministic else choices.draw()
        return actions, values, choices.log_prob(actions)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values (B, 1), log probabilities (B,) and entropies (B,) of given actions (B,)."""
        choices, values = self._evaluate(obs)
        return values, choices.log_prob(actions), choices.entropy()

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """The distribution over replicas."""
        return self.action_dist.proba_distribution(action_logits=self.network.scores(obs)[0])

    def predict_values(self, obs: Any) -> Tensor:
        """Values (B, 1)."""
        return self.network.scores(obs)[1].unsqueeze(-1)


class MaskedPolicy(_ByNetwork, MaskableActorCriticPolicy):
    """Illegal actions get probability 0 by the masks (B, A) that sb3-contrib's MaskablePPO hands on."""

    def _evaluate(self, obs: Any, masks: Any) -> tuple[Choices, Tensor]:
        logits, value = self.network.scores(obs)
        if masks is not None:
            legal = torch.as_tensor(masks, dtype=torch.bool).view_as(logits)
            logits = logits.masked_fill(~legal, ILLEGAL_LOGIT)
        return Choices(logits), value.unsqueeze(-1)

    def forward(
        self, obs: Any, deterministic: bool = False, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (B,), values (B, 1) and log probabilities (B,)."""
        choices, values = self._evaluate(obs, action_masks)
        actions = choices.likeliest() if deterministic else choices.draw()
        return actions, values, choices.log_prob(actions)

    def evaluate_actions(
        self, obs: Any, actions: Tensor, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values (B, 1), log probabilities (B,) and entropies (B,) of given actions (B,)."""
        choices, values = self._evaluate(obs, action_masks)
        return values, choices.log_prob(actions), choices.entropy()

    def get_distribution(
        self, obs: PyTorchObs, action_masks: np.ndarray | None = None
    ) -> MaskableDistribution:
        """The distribution over actions."""
        distribution = self.action_dist.proba_distribution(action_logits=self.network.scores(obs)[0])
        distribution.apply_masking(action_masks)
        return distribution

    def predict_values(self, obs: Any) -> Tensor:
        """Values (B, 1)."""
        return self.network.scores(obs)[1].unsqueeze(-1)
