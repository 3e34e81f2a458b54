"""The network of an engine's scheduler (agents/networks/engine_scorer.py)."""

from collections.abc import Mapping

import numpy as np

from servegym.agents.serving.artifact.schema import ENGINE_FEATURES, ROW_FEATURES
from servegym.agents.serving.networks.numpy_networks.router_inputs import Weights
from servegym.agents.serving.networks.numpy_networks.router_scores import ILLEGAL_SCORE
from servegym.agents.serving.networks.numpy_networks.scheduler_rule import (
    NUM_ROWS,
    RULE,
    SHARES,
    VISIBLE,
    SchedulerRule,
)

STATES = 3
"""The first columns of a row say what its request does; all are 0 where there is none."""

AMOUNTS = len(ROW_FEATURES) + 1
"""The columns of a row, and predicted output still to come."""

CONSTANTS = {
    "constants.engine_units": (len(ENGINE_FEATURES),),
    "constants.row_units": (AMOUNTS,),
    "constants.rule": (len(RULE),),
}

_PREDICTED, _GENERATED = ROW_FEATURES.index("predicted_output_tokens"), ROW_FEATURES.index("generated_tokens")


def shapes(hidden: int, layers: int, num_replicas: int, prefix: str = "actor.") -> dict[str, tuple[int, ...]]:
    """Its arrays by name, those with weights behind `prefix`."""
    widths = {
        "whole.encode_row": (hidden, 2 * AMOUNTS),
        "whole.encode": (hidden, len(ENGINE_FEATURES) + 4 * hidden),
        **{f"whole.trunk.{layer}": (hidden, hidden) for layer in range(layers - 1)},
        "row_from_itself": (hidden, hidden),
        "score_row": (1, hidden),
        "score_kinds": (2 + len(SHARES), hidden),
    }
    found: dict[str, tuple[int, ...]] = {**CONSTANTS, f"{prefix}rule_weight": ()}
    for name, shape in widths.items():
        found[f"{prefix}{name}.weight"], found[f"{prefix}{name}.bias"] = shape, shape[:1]
    found[f"{prefix}row_from_whole.weight"] = (hidden, hidden)
    return found


class NumpyEngineScorer:
    """For one engine. Features are rows here, and requests columns; a last row of 1 carries biases."""

    def __init__(self, weights: Weights, layers: int, prefix: str = "actor.") -> None:
        def with_bias(name: str) -> np.ndarray:
            parts = [weights[f"{prefix}{name}.weight"], weights[f"{prefix}{name}.bias"][:, None]]
            return np.concatenate(parts, axis=1)

        self._rule = SchedulerRule(weights["constants.rule"])
        self._engine_units = weights["constants.engine_units"]
        self._row_units = weights["constants.row_units"][:, None].copy()
        self._encode_row, self._encode = with_bias("whole.encode_row"), with_bias("whole.encode")
        self._trunk = [with_bias(f"whole.trunk.{layer}") for layer in range(layers - 1)]
        self._kinds, self._score_row = with_bias("score_kinds"), with_bias("score_row")[0]
        hidden = len(self._encode)
        itself, whole = with_bias("row_from_itself"), weights[f"{prefix}row_from_whole.weight"]
        self._row = itself[:, :-1].copy()
        self._hear = np.concatenate([whole, itself[:, -1:]], axis=1)
        self._rule_weight = float(weights[f"{prefix}rule_weight"])
        self._raw = np.empty((AMOUNTS, NUM_ROWS), np.float32)
        self._inputs = np.ones((2 * AMOUNTS + 1, NUM_ROWS), np.float32)
        self._seen = np.ones(len(ENGINE_FEATURES) + 4 * hidden + 1, np.float32)
        self._whole = np.ones(hidden + 1, np.float32)
        self._each = np.ones((hidden + 1, VISIBLE), np.float32)
        self.scores = np.empty(NUM_ROWS + len(SHARES), np.float32)

    def score_one(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores (68,) of raw arrays."""
        engine, requests = observation["engine"], observation["requests"]
        raw = self._raw
        raw[:-1] = requests.T
        np.subtract(raw[_PREDICTED], raw[_GENERATED], raw[-1])
        np.maximum(raw[-1], 0.0, out=raw[-1])
        there = raw[:STATES].sum(axis=0) > 0
        allowed = self._rule.allowed(engine, raw[:, :VISIBLE], there[:VISIBLE], raw[-1, :VISIBLE])
        states = self._encode_rows(there)
        whole = self._encode_whole(engine, states, there)
        scores = self.scores
        scores[...] = ILLEGAL_SCORE
        kinds = self._kinds @ whole
        if allowed.legal.any():
            each = self._each[:-1]
            np.dot(self._row, states[:, :VISIBLE], each)
            each += (self._hear @ whole)[:, None]
            np.maximum(each, 0.0, out=each)
            rows = self._score_row @ self._each
            rows = rows[allowed.legal]
            scores[:VISIBLE][allowed.legal] = kinds[0] + rows - rows.max()
        scores[NUM_ROWS:][allowed.shares] = kinds[2:][allowed.shares]
        scores[allowed.ruled] += self._rule_weight
        return scores

    def _encode_rows(self, there: np.ndarray) -> np.ndarray:
        """States (hidden, 64) of the requests in `_raw`."""
        signed, above = self._inputs[:AMOUNTS], self._inputs[AMOUNTS:-1]
        amounts = self._raw
        amounts /= self._row_units
        nobody = ~there
        np.copyto(above, amounts)
        np.copyto(above, np.inf, where=nobody)
        for half in (slice(VISIBLE), slice(VISIBLE, None)):
            if there[half].any():
                above[:, half] -= above[:, half].min(axis=1, keepdims=True)
        np.copyto(above, 0.0, where=nobody)
        np.maximum(above, 0.0, out=above)
        np.log1p(above, above)
        np.abs(amounts, out=signed)
        np.log1p(signed, signed)
        np.copysign(signed, amounts, signed)
        np.copyto(signed, 0.0, where=nobody)
        states: np.ndarray = np.dot(self._encode_row, self._inputs)
        np.maximum(states, 0.0, out=states)
        states *= there
        return states

    def _encode_whole(self, engine: np.ndarray, states: np.ndarray, there: np.ndarray) -> np.ndarray:
        """The state of the whole (hidden + 1,), the last 1."""
        hidden, seen = len(states), self._seen
        size = len(ENGINE_FEATURES)
        seen[:size] = np.log1p(engine / self._engine_units)
        halves = states.reshape(hidden, 2, VISIBLE)
        number = np.maximum(there.reshape(2, VISIBLE).sum(axis=1), 1).astype(np.float32)
        # By half, means and then maxima.
        pooled = seen[size:-1].reshape(2, 2, hidden)
        pooled[:, 0] = (halves.sum(axis=2) / number).T
        pooled[:, 1] = halves.max(axis=2).T
        whole, state = self._whole, self._whole[:-1]
        np.dot(self._encode, seen, state)
        np.maximum(state, 0.0, out=state)
        for layer in self._trunk:
            state[...] = layer @ whole
            np.maximum(state, 0.0, out=state)
        return whole
