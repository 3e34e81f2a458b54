"""The networks by name."""

from servegym.agents.networks.gnn import RouterGNN
from servegym.agents.networks.mlp import RouterMLP
from servegym.agents.networks.router_network import RouterNetwork

NETWORKS = ("gnn", "mlp")


def build_network(name: str, num_replicas: int, hidden: int, layers: int) -> RouterNetwork:
    """A fresh network of NETWORKS for a fleet of `num_replicas`, weights drawn from torch's generator."""
    if name == "gnn":
        return RouterGNN(hidden, layers)
    return RouterMLP(num_replicas, hidden, layers)
