"""From a trained network to the arrays that NumPy runs it from, and the few numbers that say how."""

import math
from typing import Any

import numpy as np

from servegym.agents.networks.action_network import ActionNetwork
from servegym.agents.networks.attention import RouterAttention
from servegym.agents.networks.engine_scorer import EngineScorer, Scale
from servegym.agents.networks.forecasts import LONGEST_S
from servegym.agents.networks.gnn import RouterGNN
from servegym.agents.networks.mlp import RouterMLP
from servegym.agents.networks.normalise import PRIOR_UNITS, WORST, Normalise
from servegym.agents.networks.two_level import SEATS_UNIT_S, TwoLevelNetwork
from servegym.agents.serving.networks.numpy_network import NETWORKS
from servegym.agents.serving.networks.numpy_networks.scheduler_rule import RULE
from servegym.costmodels.errors import InputError


def network_description(network: ActionNetwork) -> dict[str, Any]:
    """kind, hidden and layers. InputError for a network that cannot be exported."""
    if isinstance(network, RouterMLP):
        return _about("mlp", network.score.in_features, len(network.trunk))
    if isinstance(network, RouterGNN):
        return _about("gnn", network.score.in_features, len(network.rounds))
    if isinstance(network, RouterAttention):
        return _about("attention", network.score.in_features, len(network.attend))
    if isinstance(network, EngineScorer):
        whole = network.actor.whole
        return _about("engine_scorer", whole.encode.out_features, 1 + len(whole.trunk))
    if isinstance(network, TwoLevelNetwork):
        return _about("two_level", network.router.score.in_features, len(network.router.rounds))
    raise InputError(f"network = {type(network).__name__}: must be one of {', '.join(NETWORKS)}")


def arrays_of(network: ActionNetwork) -> dict[str, np.ndarray]:
    """Weights by their names in the network, without those of its value, and `constants.NAME`: float32."""
    about = network_description(network)
    arrays = {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}
    for module in network.modules():
        if isinstance(module, Normalise):
            arrays |= _router_constants(module)
        if isinstance(module, Scale):
            arrays |= _scheduler_constants(module)
    arrays["constants.seats_unit_s"] = np.array([SEATS_UNIT_S])
    due = NETWORKS[about["kind"]].shapes(about["hidden"], about["layers"], network.num_replicas or 0)
    return {name: arrays[name].astype(np.float32).reshape(shape) for name, shape in due.items()}


def _about(kind: str, hidden: int, layers: int) -> dict[str, Any]:
    return {"kind": kind, "hidden": hidden, "layers": layers}


def _router_constants(normalise: Normalise) -> dict[str, np.ndarray]:
    return {
        "constants.request_units": normalise.request_units.numpy(),
        "constants.replica_units": normalise.replica_units.numpy(),
        "constants.prior_units_s": np.array(PRIOR_UNITS),
        "constants.worst_prior": np.array([WORST]),
        "constants.longest_s": np.array([LONGEST_S]),
    }


def _scheduler_constants(scale: Scale) -> dict[str, np.ndarray]:
    rule = scale.rule._asdict()
    rule["leeway"] = math.inf if rule["leeway"] is None else rule["leeway"]
    return {
        "constants.engine_units": scale.engine_units.numpy(),
        "constants.row_units": scale.row_units.numpy(),
        "constants.rule": np.array([rule[name] for name in RULE]),
    }
