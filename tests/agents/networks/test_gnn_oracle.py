"""The dense message passing equals torch-geometric's general one on an explicit graph."""

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.nn import HeteroConv, SAGEConv

from servegym.agents.networks.action_network import ILLEGAL_LOGIT
from servegym.agents.networks.gnn import MessageRound, RouterGNN
from servegym.agents.serving.artifact.golden import plausible_observation
from servegym.envs.routing.observation import PARTS

TO_REPLICA = ("request", "asks", "replica")
TO_REQUEST = ("replica", "answers", "request")


def general_round(ours: MessageRound, hidden: int) -> HeteroConv:
    """Mean-aggregating SAGEConv for either direction, with the weights of `ours`."""
    layers = {edge: SAGEConv((hidden, hidden), hidden, aggr="mean") for edge in (TO_REPLICA, TO_REQUEST)}
    for edge, neighbours, itself in (
        (TO_REPLICA, ours.replica_from_request, ours.replica_from_itself),
        (TO_REQUEST, ours.request_from_replicas, ours.request_from_itself),
    ):
        layers[edge].lin_l.load_state_dict(neighbours.state_dict())
        layers[edge].lin_r.load_state_dict(itself.state_dict())
    return HeteroConv(layers)


def general_forward(
    network: RouterGNN, request: torch.Tensor, replicas: torch.Tensor, setting: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One observation at a time, edge by edge; illegal replicas are not in the graph."""
    request_inputs, replica_inputs, priors, legal = network.normalise(request, replicas, setting)
    logits = torch.full(legal.shape, ILLEGAL_LOGIT)
    values = torch.zeros(len(request))
    hidden = network.score.in_features
    for index in range(len(request)):
        present = legal[index].nonzero().flatten()
        states = {
            "request": torch.relu(network.encode_request(request_inputs[index : index + 1])),
            "replica": torch.relu(network.encode_replica(replica_inputs[index, present])),
        }
        replica_ids = torch.randperm(len(present))  # the order of edges is of no consequence
        zeros = torch.zeros_like(replica_ids)
        edges = {TO_REPLICA: torch.stack([zeros, replica_ids]), TO_REQUEST: torch.stack([replica_ids, zeros])}
        for ours in network.rounds:
            states = general_round(ours, hidden)(states, edges)
            states = {node: torch.relu(state) for node, state in states.items()}
        scores = network.score(states["replica"]).flatten()
        logits[index, present] = scores + priors[index, present] @ network.prior_weights
        values[index] = network.value(states["request"]).item()
    return logits, values


@pytest.mark.parametrize(("num_replicas", "layers"), [(1, 2), (4, 1), (8, 2), (32, 3)])
def test_equals_general_message_passing(num_replicas: int, layers: int) -> None:
    torch.manual_seed(num_replicas)
    network = RouterGNN(hidden=16, layers=layers).requires_grad_(False)
    nn.init.normal_(network.score.weight)
    for ours in network.rounds:
        nn.init.normal_(ours.replica_from_request.bias)
        nn.init.normal_(ours.request_from_replicas.bias)
    observation = plausible_observation("router", np.random.default_rng(num_replicas), 20, num_replicas)
    arrays = [torch.from_numpy(observation[key]) for key in PARTS]
    logits, values = network(*arrays)
    general_logits, general_values = general_forward(network, *arrays)
    torch.testing.assert_close(logits, general_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(values, general_values, rtol=1e-4, atol=1e-4)
