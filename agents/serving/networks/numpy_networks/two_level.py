"""The network of both levels (agents/networks/two_level.py)."""

from collections.abc import Mapping

import numpy as np

from servegym.agents.serving.artifact.schema import REPLICA_FEATURES, REQUEST_FEATURES, SETTING_FEATURES
from servegym.agents.serving.networks.numpy_networks import engine_scorer, router_gnn
from servegym.agents.serving.networks.numpy_networks.engine_scorer import NumpyEngineScorer
from servegym.agents.serving.networks.numpy_networks.router_gnn import NumpyRouterGNN
from servegym.agents.serving.networks.numpy_networks.router_inputs import Weights
from servegym.agents.serving.networks.numpy_networks.router_scores import ILLEGAL_SCORE

_RUNNING, _WAITING, _REMAINING, _CONTEXT, _SPEED = (
    REPLICA_FEATURES.index(name)
    for name in ("running", "waiting", "predicted_remaining_tokens", "decode_context_tokens", "speed")
)
_OVERHEAD, _PER_DECODE, _PER_CONTEXT, _MEAN_OUTPUT = (
    SETTING_FEATURES.index(name)
    for name in ("overhead_s", "s_per_decode", "s_per_context_token", "mean_output_tokens")
)
_PREDICTED = REQUEST_FEATURES.index("predicted_output_tokens")


def shapes(hidden: int, layers: int, num_replicas: int) -> dict[str, tuple[int, ...]]:
    """Its arrays by name, whatever the size of the fleet."""
    found: dict[str, tuple[int, ...]] = {"seats_weight": (), "constants.seats_unit_s": (1,)}
    for name, shape in router_gnn.shapes(hidden, layers, num_replicas).items():
        found[name if name.startswith("constants.") else f"router.{name}"] = shape
    return found | engine_scorer.shapes(hidden, layers, num_replicas, prefix="scheduler.")


class NumpyTwoLevel:
    """For a fleet of one size. Only the level that is due is computed."""

    def __init__(self, weights: Weights, layers: int, num_replicas: int) -> None:
        self._router = NumpyRouterGNN(weights, layers, num_replicas, prefix="router.")
        self._scheduler = NumpyEngineScorer(weights, layers, prefix="scheduler.")
        self._seats = float(weights["seats_weight"]) / float(weights["constants.seats_unit_s"][0])
        self._longest = weights["constants.longest_s"][0]
        self._scores = np.empty(num_replicas + len(self._scheduler.scores), np.float32)
        self._routes, self._choices = self._scores[:num_replicas], self._scores[num_replicas:]

    def score_one(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores (R + 68,) of raw arrays."""
        self._scores[...] = ILLEGAL_SCORE
        if observation["level"] > 0:
            self._choices[...] = self._scheduler.score_one(observation)
            return self._scores
        np.copyto(self._routes, self._router.score_one(observation))
        waits_s = self._seat_waits_s(observation["request"], observation["replicas"], observation["setting"])
        waits_s -= waits_s.min()
        waits_s *= self._seats
        self._routes -= waits_s
        return self._scores

    def _seat_waits_s(self, request: np.ndarray, replicas: np.ndarray, setting: np.ndarray) -> np.ndarray:
        """Seconds (R,) of waiting for places (agents/networks/seats.py)."""
        running, waiting = replicas[:, _RUNNING], replicas[:, _WAITING]
        mean_output = np.maximum(setting[_MEAN_OUTPUT], np.float32(1.0))
        output = request[_PREDICTED] if request[_PREDICTED] > 0 else mean_output
        behind = output / (output + mean_output)
        tokens: np.ndarray = replicas[:, _REMAINING] / np.maximum(running + waiting, 1.0)
        tokens *= behind
        tokens += (np.float32(1.0) - behind) * output
        tokens *= waiting
        iteration_s = setting[_OVERHEAD] + setting[_PER_DECODE] * running
        iteration_s += setting[_PER_CONTEXT] * replicas[:, _CONTEXT]
        tokens *= iteration_s / np.maximum(replicas[:, _SPEED], np.float32(1e-3))
        tokens /= np.maximum(running, 1.0)
        np.minimum(tokens, self._longest, out=tokens)
        return tokens
