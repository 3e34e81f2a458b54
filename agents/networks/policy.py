"""A router network as a policy of Stable-Baselines3, which PPO trains.

The mask is part of the observation and the network gives illegal replicas probability 0, so plain PPO
always acts legally and needs no masks beside the observation. Logits and value come straight from
the network; nothing that depends on the number of replicas is put on top.
"""

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from servegym.agents.networks.build import build_network
from servegym.agents.networks.router_network import RouterNetwork


class RouterPolicy(ActorCriticPolicy):
    """Actor and critic from one `RouterNetwork`, at `.network`.

    The observation space is a Dict of `request` (4,) and `replicas` (R, 13), the action space Discrete(R).
    `network` is a name of NETWORKS; further keywords are those of SB3's policies (optimiser).
    """

    network: RouterNetwork

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
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[],
            features_extractor_class=CombinedExtractor,  # has no weights, and is not called
            **sb3_options,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        assert isinstance(self.action_space, spaces.Discrete)
        name, hidden, layers = self.network_options.values()
        self.network = build_network(name, int(self.action_space.n), hidden, layers)
        options = {"lr": lr_schedule(1)} | self.optimizer_kwargs
        self.optimizer = self.optimizer_class(self.network.parameters(), **options)

    def _evaluate(self, obs: PyTorchObs) -> tuple[Distribution, Tensor]:
        assert isinstance(obs, dict)
        logits, value = self.network(obs["request"], obs["replicas"])
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

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters() | self.network_options
        for fixed in ("net_arch", "features_extractor_class"):
            del parameters[fixed]
        return parameters
