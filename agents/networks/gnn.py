"""The graph of one request and the replicas that could take it, and message passing over it.

The graph is a star: one request node, one node per replica, edges both ways between the request and
every replica that may be chosen. In a star the mean over neighbours needs no edge list: what a replica
hears is the request, and what the request hears is the mean of the replicas. So GraphSAGE with mean
aggregation (Hamilton, Ying, Leskovec: Inductive Representation Learning on Large Graphs, 2017) becomes a
few dense products, equal to the general form and much faster on a CPU. Two rounds let every replica
hear of all others through the request. Nothing depends on the number or the order of the replicas.
"""

import torch
from torch import Tensor, nn

from servegym.agents.networks.action_network import linear
from servegym.agents.networks.normalise import REPLICA_INPUTS, REQUEST_INPUTS
from servegym.agents.networks.router_network import RouterNetwork


class MessageRound(nn.Module):
    """One round of message passing; both sides read the state before the round."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.replica_from_request = linear(hidden, hidden)
        self.replica_from_itself = linear(hidden, hidden, bias=False)
        self.request_from_replicas = linear(hidden, hidden)
        self.request_from_itself = linear(hidden, hidden, bias=False)

    def forward(self, request: Tensor, replicas: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        """`request` (B, H), `replicas` (B, R, H), `share` (B, 1, R): a replica's weight in the mean."""
        mean = torch.bmm(share, replicas).squeeze(1)
        from_request = self.replica_from_request(request).unsqueeze(1)
        # In place: these are the largest tensors of an update, and memory is what it waits for.
        new_replicas = self.replica_from_itself(replicas).add_(from_request).relu_()
        new_request = torch.relu(self.request_from_itself(request) + self.request_from_replicas(mean))
        return new_request, new_replicas


class RouterGNN(RouterNetwork):
    """Scores any number of replicas: the last state of a replica gives its score, the request's the value.

    `hidden` is the width of a node's state, `layers` the number of rounds.
    """

    def __init__(self, hidden: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.encode_request = linear(REQUEST_INPUTS, hidden)
        self.encode_replica = linear(REPLICA_INPUTS, hidden)
        self.rounds = nn.ModuleList(MessageRound(hidden) for _ in range(layers))
        self.score = linear(hidden, 1, gain=0.01)
        self.value = linear(hidden, 1, gain=1.0)

    def evaluate(self, request: Tensor, replicas: Tensor, legal: Tensor) -> tuple[Tensor, Tensor]:
        legal_weight = legal.to(replicas.dtype)
        share = (legal_weight / legal_weight.sum(dim=1, keepdim=True).clamp(min=1.0)).unsqueeze(1)
        request_state = torch.relu(self.encode_request(request))
        replica_state = self.encode_replica(replicas).relu_()
        for message_round in self.rounds:
            request_state, replica_state = message_round(request_state, replica_state, share)
        return self.score(replica_state).squeeze(-1), self.value(request_state).squeeze(-1)
