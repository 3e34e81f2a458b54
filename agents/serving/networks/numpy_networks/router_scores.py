"""From what a router network says to scores: forecasts are added (agents/networks/router_network.py)."""

import numpy as np

from servegym.agents.serving.networks.numpy_networks.router_inputs import RouterInputs, Weights

ILLEGAL_SCORE = -1e9
"""Of an action that may not be chosen."""

EQUAL = 2e-6
"""Scores nearer to the best than this, relative to it and at least absolute, are the best: which kernel of a
library multiplies depends on a replica's place, so replicas that are alike would differ by rounding."""

PRIOR_SHAPES = {"departure": (2,), "prior_weights": (2,)}


class RouterScores:
    """`scores` (R,), which the network writes and `finish` completes in place."""

    def __init__(self, weights: Weights, inputs: RouterInputs, num_replicas: int) -> None:
        self.scores = np.empty(num_replicas, np.float32)
        self._inputs, self._forecasts = inputs, np.empty(num_replicas, np.float32)
        self._departure, self._weights = weights["departure"].tolist(), weights["prior_weights"].tolist()
        self._as_good = np.empty(num_replicas, np.bool_)
        self._share: float | None = None
        self._mix, self._by_departure = np.empty(2, np.float32), np.empty((), np.float32)

    def finish(self) -> np.ndarray:
        """Scores with forecasts added, ILLEGAL_SCORE where illegal; the first of equally good is the best."""
        inputs, scores = self._inputs, self.scores
        if inputs.ttft_share != self._share:
            self._weigh(inputs.ttft_share)
        scores *= self._by_departure
        np.dot(self._mix, inputs.priors, self._forecasts)
        scores += self._forecasts
        if inputs.illegal is not None:
            scores[inputs.illegal] = ILLEGAL_SCORE
        best = float(np.maximum.reduce(scores))
        scores[np.greater_equal(scores, best - EQUAL * max(1.0, abs(best)), self._as_good).argmax()] = best
        return scores

    def none_legal(self) -> np.ndarray:
        """Where no replica may be chosen."""
        self.scores[...] = ILLEGAL_SCORE
        return self.scores

    def _weigh(self, share: float) -> None:
        """The sum of untrained scores and, by the departure, what the trained ones differ by."""
        by_latency, by_ttft = self._departure
        departure = (1.0 - share) * by_latency + share * by_ttft
        self._share = share
        self._by_departure[...] = departure
        self._mix[0] = -(1.0 + departure * (self._weights[0] - 1.0))
        self._mix[1] = -departure * self._weights[1]
