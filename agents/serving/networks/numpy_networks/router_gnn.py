"""Message passing between a request and the replicas (agents/networks/gnn.py)."""

from collections.abc import Mapping
from typing import NamedTuple

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
    """Its arrays by name, whatever the size of the fleet."""
    found: dict[str, tuple[int, ...]] = {**CONSTANTS, **PRIOR_SHAPES}
    for name, width in (("encode_request", REQUEST_INPUTS), ("encode_replica", REPLICA_INPUTS)):
        found[f"{name}.weight"], found[f"{name}.bias"] = (hidden, width), (hidden,)
    for layer in range(layers):
        # The last state of the request decides nothing.
        last = layer == layers - 1
        for name in ("replica_from_request",) if last else ("replica_from_request", "request_from_replicas"):
            found[f"rounds.{layer}.{name}.weight"] = (hidden, hidden)
            found[f"rounds.{layer}.{name}.bias"] = (hidden,)
        for name in ("replica_from_itself",) if last else ("replica_from_itself", "request_from_itself"):
            found[f"rounds.{layer}.{name}.weight"] = (hidden, hidden)
    found["score.weight"], found["score.bias"] = (1, hidden), (1,)
    return found


class _Round(NamedTuple):
    """Of message passing.

    replicas: (hidden, hidden + 1), whose last column `hears` becomes what they hear of the request. request:
    that, and after it but in the last round the next state of the request, from the mean of the replicas, its
    own state, and 1. states: of the replicas, and of these with a row of 1, before; activated: after.
    """

    replicas: np.ndarray
    hears: np.ndarray
    request: np.ndarray
    states: np.ndarray
    with_one: np.ndarray
    activated: np.ndarray


class NumpyRouterGNN:
    """For a fleet of one size. A last state of 1 carries biases, and to replicas what the request says."""

    def __init__(self, weights: Weights, layers: int, num_replicas: int, prefix: str = "") -> None:
        def array(name: str) -> np.ndarray:
            return weights[prefix + name]

        hidden = len(array("encode_request.bias"))
        self._inputs = RouterInputs(weights, num_replicas)
        self._final = RouterScores({name: array(name) for name in PRIOR_SHAPES}, self._inputs, num_replicas)
        # The first row of the inputs is 1.
        encode = [array("encode_replica.bias")[:, None], array("encode_replica.weight")]
        self._encode_replica = np.concatenate(encode, axis=1)
        encode = [array("encode_request.weight"), array("encode_request.bias")[:, None]]
        self._encode_request = np.concatenate(encode, axis=1)
        states = [np.ones((hidden + 1, num_replicas), np.float32) for _ in range(layers + 1)]
        self._encoded, self._last_states = states[0][:-1], states[-1]
        node = self._node = np.ones(2 * hidden + 1, np.float32)
        self._mean, self._request, self._request_with_one = node[:hidden], node[hidden:-1], node[hidden:]
        self._said = np.empty(2 * hidden, np.float32)
        self._heard, self._next_request = self._said[:hidden], self._said[hidden:]
        rounds = []
        for layer in range(layers):
            name = f"rounds.{layer}."
            itself = array(f"{name}replica_from_itself.weight")
            replicas = np.concatenate([itself, np.zeros((hidden, 1), np.float32)], axis=1)
            hears = [array(f"{name}replica_from_request.{part}") for part in ("weight", "bias")]
            request = np.concatenate([hears[0], hears[1][:, None]], axis=1)
            if layer < layers - 1:
                answers = [
                    array(f"{name}request_from_replicas.weight"),
                    array(f"{name}request_from_itself.weight"),
                    array(f"{name}request_from_replicas.bias")[:, None],
                ]
                without_mean = np.concatenate([np.zeros((hidden, hidden), np.float32), request], axis=1)
                request = np.concatenate([without_mean, np.concatenate(answers, axis=1)])
            before, after = states[layer], states[layer + 1][:-1]
            rounds.append(_Round(replicas, replicas[:, -1], request, before[:-1], before, after))
        *self._rounds, self._last_round = rounds
        self._score = np.concatenate([array("score.weight")[0], array("score.bias")])
        self._equal = np.full(num_replicas, 1.0 / max(num_replicas, 1), np.float32)
        self._zero = np.zeros((), np.float32)

    def score_one(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores (R,) of raw arrays."""
        inputs, final, zero = self._inputs, self._final, self._zero
        if not inputs.update(observation["request"], observation["replicas"], observation["setting"]):
            return final.none_legal()
        share = self._equal
        if inputs.illegal is not None:
            share = np.logical_not(inputs.illegal).astype(np.float32)
            share /= share.sum()
        np.dot(self._encode_replica, inputs.log, self._encoded)
        np.maximum(self._encoded, zero, out=self._encoded)
        np.dot(self._encode_request, inputs.request, self._request)
        np.maximum(self._request, zero, out=self._request)
        for each in self._rounds:
            np.dot(each.states, share, self._mean)
            np.dot(each.request, self._node, self._said)
            each.hears[...] = self._heard
            np.dot(each.replicas, each.with_one, each.activated)
            np.maximum(each.activated, zero, out=each.activated)
            np.maximum(self._next_request, zero, out=self._request)
        last = self._last_round
        np.dot(last.request, self._request_with_one, self._heard)
        last.hears[...] = self._heard
        np.dot(last.replicas, last.with_one, last.activated)
        np.maximum(last.activated, zero, out=last.activated)
        np.dot(self._score, self._last_states, final.scores)
        return final.finish()
