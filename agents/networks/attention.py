"""Attention between one request and the replicas that could take it.

A transformer encoder (Vaswani et al., "Attention Is All You Need", 2017) without positions, so that nothing
depends on the order or the number of the replicas. Where message passing hears of the mean of a fleet, here
each replica weighs the others by what they are; it costs the square of their number.
"""

import torch
from torch import Tensor, nn

from servegym.agents.networks.action_network import ILLEGAL_LOGIT, linear
from servegym.agents.networks.normalise import REPLICA_INPUTS, REQUEST_INPUTS
from servegym.agents.networks.router_network import RouterNetwork
from servegym.costmodels.errors import InputError

HEADS = 4
"""Of attention in each layer (ours)."""


class AttentionLayer(nn.Module):
    """Each node adds what it hears from the nodes it attends to, then what two layers make of that."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.before_attention, self.before_layers = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.query_key_value = linear(hidden, 3 * hidden, gain=1.0, bias=False)
        self.hear = linear(hidden, hidden, gain=0.1)
        self.widen, self.narrow = linear(hidden, 2 * hidden), linear(2 * hidden, hidden, gain=0.1)

    def forward(self, nodes: Tensor, masked: Tensor) -> Tensor:
        """`nodes` (B, N, H); `masked` bool (B, 1, 1, N), who is not attended to."""
        batch, number, hidden = nodes.shape
        projected = self.query_key_value(self.before_attention(nodes))
        by_head = projected.reshape(batch, number, 3, HEADS, hidden // HEADS).permute(2, 0, 3, 1, 4)
        query, key, value = by_head[0], by_head[1], by_head[2]
        alike = query @ key.transpose(-2, -1) / (hidden // HEADS) ** 0.5
        weights = torch.softmax(alike.masked_fill(masked, ILLEGAL_LOGIT), dim=-1)
        heard = (weights @ value).transpose(1, 2).reshape(batch, number, hidden)
        nodes = nodes + self.hear(heard)
        added: Tensor = self.narrow(torch.relu(self.widen(self.before_layers(nodes))))
        return nodes + added


class RouterAttention(RouterNetwork):
    """Scores any number of replicas, each by its last state; the request's gives the value.

    `hidden`, the width of a node's state, is a multiple of HEADS (InputError else); `layers` of attention.
    """

    def __init__(self, hidden: int = 64, layers: int = 2) -> None:
        super().__init__()
        if hidden % HEADS:
            raise InputError(f"hidden = {hidden}: must be a multiple of {HEADS}, the heads of attention")
        self.encode_request = linear(REQUEST_INPUTS, hidden)
        self.encode_replica = linear(REPLICA_INPUTS, hidden)
        self.attend = nn.ModuleList(AttentionLayer(hidden) for _ in range(layers))
        self.score = linear(hidden, 1, gain=0.01)
        self.value = linear(hidden, 1, gain=1.0)

    def evaluate(self, request: Tensor, replicas: Tensor, legal: Tensor) -> tuple[Tensor, Tensor]:
        nodes = torch.cat([self.encode_request(request).unsqueeze(1), self.encode_replica(replicas)], dim=1)
        masked = torch.cat([torch.zeros_like(legal[:, :1]), ~legal], dim=1)[:, None, None]
        for layer in self.attend:
            nodes = layer(nodes, masked)
        return self.score(nodes[:, 1:]).squeeze(-1), self.value(nodes[:, 0]).squeeze(-1)
