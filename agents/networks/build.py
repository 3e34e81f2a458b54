"""The networks by name."""

from collections.abc import Callable

from servegym.agents.networks.action_network import ActionNetwork
from servegym.agents.networks.attention import RouterAttention
from servegym.agents.networks.choice_scorer import ChoiceScorer
from servegym.agents.networks.engine_scorer import EngineScorer
from servegym.agents.networks.gnn import RouterGNN
from servegym.agents.networks.gpu_scorer import GpuScorer
from servegym.agents.networks.mixture import RouterMixture
from servegym.agents.networks.mlp import RouterMLP
from servegym.agents.networks.queue_mlp import QueueMLP
from servegym.agents.networks.two_level import TwoLevelNetwork

NETWORKS: dict[str, Callable[[int, int, int], ActionNetwork]] = {
    "gnn": lambda num_actions, hidden, layers: RouterGNN(hidden, layers),
    "attention": lambda num_actions, hidden, layers: RouterAttention(hidden, layers),
    "mlp": RouterMLP,
    "mixture": lambda num_actions, hidden, layers: RouterMixture(hidden, layers),
    "gated_mixture": lambda num_actions, hidden, layers: RouterMixture(hidden, layers, gated=True),
    "queue_mlp": QueueMLP,
    "gpu_scorer": lambda num_actions, hidden, layers: GpuScorer(hidden, layers),
    "choice_scorer": lambda num_actions, hidden, layers: ChoiceScorer(hidden, layers),
    "engine_scorer": lambda num_actions, hidden, layers: EngineScorer(hidden, layers),
    "two_level": lambda num_actions, hidden, layers: TwoLevelNetwork(hidden, layers),
}
"""Each from the number of actions, the width and the number of layers."""

MIXTURES = ("mixture", "gated_mixture")
"""Those that mix published routers, which they need to act."""


def build_network(name: str, num_actions: int, hidden: int, layers: int) -> ActionNetwork:
    """A fresh network of NETWORKS that chooses among `num_actions`, weights drawn from torch's generator."""
    return NETWORKS[name](num_actions, hidden, layers)
