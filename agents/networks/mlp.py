"""The plain baseline: the whole observation as one flat vector, for a fleet of one fixed size."""

import itertools

import torch
from torch import Tensor, nn

from servegym.agents.networks.action_network import linear
from servegym.agents.networks.normalise import REPLICA_INPUTS, REQUEST_INPUTS
from servegym.agents.networks.router_network import RouterNetwork
from servegym.costmodels.errors import InputError


class RouterMLP(RouterNetwork):
    """Scores `num_replicas` replicas from all inputs together; `layers` hidden layers of width `hidden`.

    Unlike the GNN it has to learn for each replica anew what a queue means, and fits one fleet size.
    """

    def __init__(self, num_replicas: int, hidden: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.num_replicas = num_replicas
        widths = [REQUEST_INPUTS + num_replicas * REPLICA_INPUTS] + [hidden] * layers
        self.trunk = nn.ModuleList(linear(*pair) for pair in itertools.pairwise(widths))
        self.score = linear(hidden, num_replicas, gain=0.01)
        self.value = linear(hidden, 1, gain=1.0)

    def forward(self, request: Tensor, replicas: Tensor, setting: Tensor) -> tuple[Tensor, Tensor]:
        """As `RouterNetwork.forward`; InputError for a fleet of another size."""
        if replicas.shape[1] != self.num_replicas:
            raise InputError(
                f"mlp network: the fleet has {replicas.shape[1]} replicas, the network was built for "
                f"{self.num_replicas}; the gnn network takes any number"
            )
        return super().forward(request, replicas, setting)

    def evaluate(self, request: Tensor, replicas: Tensor, legal: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.cat([request, replicas.flatten(1)], dim=1)
        for layer in self.trunk:
            state = torch.relu(layer(state))
        return self.score(state), self.value(state).squeeze(-1)
