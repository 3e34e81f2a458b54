"""A network as a policy of Stable-Baselines3, which PPO trains, plain or with masked actions.

Logits and value come straight from the network; nothing that depends on the number of actions is put on
top.
"""

from typing import Any

import numpy as np
from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import MaskableDistribution
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from servegym.agents.networks.action_network import ActionNetwork
from servegym.agents.networks.build import build_network


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

    def _evaluate(self, obs: PyTorchObs) -> tuple[Distribution, Tensor]:
        logits, value = self.network.scores(obs)
        return self.action_dist.proba_distribution(action_logits=logits), value.unsqueeze(-1)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (B,), values (B, 1) and log probabilities (B,)."""
        distribution, values = self._evaluate(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, values, distribution.log_prob(actions)

    def evaluate_actions(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values (B, 1), log probabilities (B,) and entropies (B,) of given actions (B,)."""
        distribution, values = self._evaluate(obs)
        return values, distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """The distribution over replicas."""
        return self._evaluate(obs)[0]

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Values (B, 1)."""
        return self._evaluate(obs)[1]


class MaskedPolicy(_ByNetwork, MaskableActorCriticPolicy):
    """Illegal actions get probability 0 by the masks (B, A) that sb3-contrib's MaskablePPO hands on."""

    def _evaluate(self, obs: PyTorchObs, masks: np.ndarray | None) -> tuple[MaskableDistribution, Tensor]:
        logits, value = self.network.scores(obs)
        distribution = self.action_dist.proba_distribution(action_logits=logits)
        distribution.apply_masking(masks)
        return distribution, value.unsqueeze(-1)

    def forward(
        self, obs: PyTorchObs, deterministic: bool = False, action_masks: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions (B,), values (B, 1) and log probabilities (B,)."""
        distribution, values = self._evaluate(obs, action_masks)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, values, distribution.log_prob(actions)

    def evaluate_actions(
        self, obs: PyTorchObs, actions: Tensor, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values (B, 1), log probabilities (B,) and entropies (B,) of given actions (B,)."""
        distribution, values = self._evaluate(obs, action_masks)
        return values, distribution.log_prob(actions), distribution.entropy()

    def get_distribution(
        self, obs: PyTorchObs, action_masks: np.ndarray | None = None
    ) -> MaskableDistribution:
        """The distribution over actions."""
        return self._evaluate(obs, action_masks)[0]

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Values (B, 1)."""
        return self._evaluate(obs, None)[1]
