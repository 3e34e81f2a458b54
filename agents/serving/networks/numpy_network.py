"""The network of an exported policy, run by NumPy."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from servegym.agents.serving.networks.numpy_networks import (
    engine_scorer,
    router_attention,
    router_gnn,
    router_mlp,
    two_level,
)
from servegym.agents.serving.networks.numpy_networks.router_inputs import Weights


class FleetNetwork(Protocol):
    """A network with its buffers, for fleets of one size."""

    def score_one(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores (A,) of raw arrays, in a buffer that the next call overwrites."""


class Kind(NamedTuple):
    """A network that can be exported.

    level: of schema.LEVELS. shapes: of its arrays by name, from width, layers and fleet size. build: from
    arrays, layers and fleet size. fixed: whether it takes one size of fleet only.
    """

    level: str
    shapes: Callable[[int, int, int], dict[str, tuple[int, ...]]]
    build: Callable[[Weights, int, int], FleetNetwork]
    fixed: bool = False


NETWORKS = {
    "mlp": Kind("router", router_mlp.shapes, router_mlp.NumpyRouterMLP, fixed=True),
    "gnn": Kind("router", router_gnn.shapes, router_gnn.NumpyRouterGNN),
    "attention": Kind("router", router_attention.shapes, router_attention.NumpyRouterAttention),
    "engine_scorer": Kind(
        "scheduler",
        engine_scorer.shapes,
        lambda weights, layers, _: engine_scorer.NumpyEngineScorer(weights, layers),
    ),
    "two_level": Kind("two_level", two_level.shapes, two_level.NumpyTwoLevel),
}
"""By the names of agents/networks/build.py."""

MOST_FLEETS = 64
"""Fleet sizes whose buffers are kept; a fleet that grows past all bounds does not fill the memory."""


class NumpyNetwork:
    """A network of NETWORKS from what `policy.json` says of it, and its arrays, which have the shapes due."""

    name = "numpy"

    def __init__(self, network: Mapping[str, Any], weights: Weights) -> None:
        self._kind, self._layers, self._weights = NETWORKS[network["kind"]], network["layers"], weights
        self._of_size: dict[int, FleetNetwork] = {}

    def scores(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores (K, A) of arrays with a leading axis K, one decision after the other."""
        count = len(next(iter(observation.values())))
        each = ({name: array[k] for name, array in observation.items()} for k in range(count))
        return np.array([self.score_one(one).copy() for one in each], np.float32)

    def score_one(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores (A,) of arrays without that axis, in a buffer that the next call overwrites."""
        num_replicas = len(observation["replicas"]) if "replicas" in observation else 0
        network = self._of_size.get(num_replicas) or self._build(num_replicas)
        return network.score_one(observation)

    def _build(self, num_replicas: int) -> FleetNetwork:
        if len(self._of_size) >= MOST_FLEETS:
            self._of_size.clear()
        network = self._kind.build(self._weights, self._layers, num_replicas)
        self._of_size[num_replicas] = network
        return network
