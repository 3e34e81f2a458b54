"""The flat router network (agents/networks/mlp.py)."""

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


def shapes(hidden: int, layers: int, num_replicas: int) -> dict[str, tuple[int, ...]]:
    """Its arrays by name."""
    found: dict[str, tuple[int, ...]] = {**CONSTANTS, **PRIOR_SHAPES}
    width = REQUEST_INPUTS + num_replicas * REPLICA_INPUTS
    for layer in range(layers):
        found[f"trunk.{layer}.weight"], found[f"trunk.{layer}.bias"] = (hidden, width), (hidden,)
        width = hidden
    found["score.weight"], found["score.bias"] = (num_replicas, hidden), (num_replicas,)
    return found


class NumpyRouterMLP:
    """For its one fleet size. A last input of 1 carries the bias of each layer."""

    def __init__(self, weights: Weights, layers: int, num_replicas: int) -> None:
        self._inputs = RouterInputs(weights, num_replicas)
        self._final = RouterScores(weights, self._inputs, num_replicas)
        first = weights["trunk.0.weight"]
        request, replicas = first[:, :REQUEST_INPUTS], first[:, REQUEST_INPUTS:]
        by_feature = replicas.reshape(-1, num_replicas, REPLICA_INPUTS).transpose(0, 2, 1)
        parts = [by_feature.reshape(len(first), -1), request, weights["trunk.0.bias"][:, None]]
        matrices = [np.concatenate(parts, axis=1)]
        matrices += [_with_bias(weights, f"trunk.{layer}") for layer in range(1, layers)]
        states = [np.ones(len(matrix) + 1, np.float32) for matrix in matrices]
        self._layers = tuple(
            (matrix, source, state[:-1])
            for matrix, source, state in zip(matrices, [self._inputs.flat, *states], states, strict=False)
        )
        self._score, self._last, self._zero = (
            _with_bias(weights, "score"),
            states[-1],
            np.zeros((), np.float32),
        )

    def score_one(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores (R,) of raw arrays."""
        final, zero = self._final, self._zero
        if not self._inputs.update(observation["request"], observation["replicas"], observation["setting"]):
            return final.none_legal()
        for matrix, source, state in self._layers:
            np.dot(matrix, source, state)
            np.maximum(state, zero, out=state)
        np.dot(self._score, self._last, final.scores)
        return final.finish()


def _with_bias(weights: Weights, name: str) -> np.ndarray:
    return np.concatenate([weights[f"{name}.weight"], weights[f"{name}.bias"][:, None]], axis=1)
