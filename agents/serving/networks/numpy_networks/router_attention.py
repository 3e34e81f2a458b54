"""Attention between a request and the replicas (agents/networks/attention.py)."""

from collections.abc import Mapping

import numpy as np

from servegym.agents.serving.networks.numpy_networks.router_inputs import (
    CONSTANTS,
    REPLICA_INPUTS,
    REQUEST_INPUTS,
    RouterInputs,
    Weights,
)
from servegym.agents.serving.networks.numpy_networks.router_scores import PRIOR_SHAPES, RouterScores

HEADS = 4

_EPSILON = np.float32(1e-5)
"""Of the variance in a layer norm."""


def shapes(hidden: int, layers: int, num_replicas: int) -> dict[str, tuple[int, ...]]:
    """Its arrays by name, whatever the size of the fleet."""
    found: dict[str, tuple[int, ...]] = {**CONSTANTS, **PRIOR_SHAPES}
    for name, width in (("encode_request", REQUEST_INPUTS), ("encode_replica", REPLICA_INPUTS)):
        found[f"{name}.weight"], found[f"{name}.bias"] = (hidden, width), (hidden,)
    for layer in range(layers):
        name = f"attend.{layer}"
        for norm in ("before_attention", "before_layers"):
            found[f"{name}.{norm}.weight"] = found[f"{name}.{norm}.bias"] = (hidden,)
        found[f"{name}.query_key_value.weight"] = (3 * hidden, hidden)
        found[f"{name}.hear.weight"], found[f"{name}.hear.bias"] = (hidden, hidden), (hidden,)
        found[f"{name}.widen.weight"], found[f"{name}.widen.bias"] = (2 * hidden, hidden), (2 * hidden,)
        found[f"{name}.narrow.weight"], found[f"{name}.narrow.bias"] = (hidden, 2 * hidden), (hidden,)
    found["score.weight"], found["score.bias"] = (1, hidden), (1,)
    return found


class NumpyRouterAttention:
    """For a fleet of one size."""

    def __init__(self, weights: Weights, layers: int, num_replicas: int) -> None:
        self._weights, self._layers = weights, layers
        self._inputs = RouterInputs(weights, num_replicas)
        self._final = RouterScores(weights, self._inputs, num_replicas)
        hidden = len(weights["encode_request.bias"])
        self._nodes = np.empty((1 + num_replicas, hidden), np.float32)
        self._masked = np.zeros(1 + num_replicas, np.bool_)

    def score_one(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores (R,) of raw arrays."""
        inputs, final = self._inputs, self._final
        if not inputs.update(observation["request"], observation["replicas"], observation["setting"]):
            return final.none_legal()
        self._masked[1:] = False if inputs.illegal is None else inputs.illegal
        self._nodes[0] = self._linear("encode_request", inputs.request[:-1])
        self._nodes[1:] = self._linear("encode_replica", inputs.log[1:].T)
        nodes = self._nodes
        for layer in range(self._layers):
            nodes = self._layer(f"attend.{layer}", nodes)
        final.scores[...] = self._linear("score", nodes[1:])[:, 0]
        return final.finish()

    def _layer(self, name: str, nodes: np.ndarray) -> np.ndarray:
        number, hidden = nodes.shape
        size = hidden // HEADS
        projected = self._norm(f"{name}.before_attention", nodes)
        projected = projected @ self._weights[f"{name}.query_key_value.weight"].T
        query, key, value = projected.reshape(number, 3, HEADS, size).transpose(1, 2, 0, 3)
        alike = query @ key.transpose(0, 2, 1)
        alike *= np.float32(size**-0.5)
        alike[:, :, self._masked] = -np.inf
        alike -= alike.max(axis=-1, keepdims=True)
        np.exp(alike, out=alike)
        alike /= alike.sum(axis=-1, keepdims=True)
        heard = (alike @ value).transpose(1, 0, 2).reshape(number, hidden)
        nodes = nodes + self._linear(f"{name}.hear", heard)
        wide = self._linear(f"{name}.widen", self._norm(f"{name}.before_layers", nodes))
        nodes += self._linear(f"{name}.narrow", np.maximum(wide, 0.0, out=wide))
        return nodes

    def _linear(self, name: str, inputs: np.ndarray) -> np.ndarray:
        product: np.ndarray = inputs @ self._weights[f"{name}.weight"].T
        product += self._weights[f"{name}.bias"]
        return product

    def _norm(self, name: str, nodes: np.ndarray) -> np.ndarray:
        centred: np.ndarray = nodes - nodes.mean(axis=-1, keepdims=True)
        centred /= np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + _EPSILON)
        centred *= self._weights[f"{name}.weight"]
        centred += self._weights[f"{name}.bias"]
        return centred
