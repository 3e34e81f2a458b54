"""What a router network reads, of one request and one fleet, as agents/networks/normalise.py makes it.

A decision lasts microseconds, and so does a call of NumPy: the sums of agents/networks/forecasts.py are
regrouped into few calls. Most of them are linear in the columns of a replica, with coefficients that are
linear in 13 terms of request and setting: two products of matrices give all of these for a whole fleet. Here
features are rows and replicas are columns, so that every other step runs along contiguous memory.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from servegym.agents.serving.artifact.schema import (
    REPLICA_FEATURES,
    REQUEST_FEATURES,
    SETTING_FEATURES,
)

Weights = Mapping[str, np.ndarray]
"""Arrays of `policy.npz` by name, float32."""

FORECASTS = ("ttft_s", "own_latency_s", "delay_of_others_s", "marginal_latency_s", "crowded_latency_s")
"""In the order of agents/networks/forecasts.py."""

COLUMNS = len(REPLICA_FEATURES)
QUANTITIES = COLUMNS + 1 + len(FORECASTS)
"""Of a replica: its columns, the share of KV blocks in use, forecasts."""

REPLICA_INPUTS = 2 * QUANTITIES
"""Each quantity, and each less the least in the fleet."""

REQUEST_INPUTS = len(REQUEST_FEATURES) + 1
"""The numbers of a request, and how much of the objective is TTFT."""

CONSTANTS = {
    "constants.request_units": (len(REQUEST_FEATURES),),
    "constants.replica_units": (QUANTITIES,),
    "constants.prior_units_s": (2,),
    "constants.worst_prior": (1,),
    "constants.longest_s": (1,),
}
"""What counts as one of each number; seconds that make a replica e times less likely, by TTFT and by latency;
where that ends; where forecasts end."""

TERMS = (
    "1",
    "prompt",
    *SETTING_FEATURES[:6],
    "prompt*s_per_prefill_token",
    "later*overhead_s",
    "later*s_per_decode",
    "later*s_per_context_token",
    "later*longer_s",
)
"""What coefficients are made of. later: output tokens after the first; longer_s: what the request adds to
each iteration."""

TOKENS = {"queued_prefill_tokens": 1.0, "unseen_prefill_tokens": 1.0, "prefix_hit_tokens": -1.0}
RUNNING = ("running", "unseen_requests")

# Rows of the first product: three numerators, three denominators, and what follows.
(
    _KV_USED,
    _TOKENS,
    _TOKENS_BEYOND_FREE,
    _KV_TOTAL,
    _BUDGET_LEFT,
    _KV_RELEASED,
    _SPEED,
    _DECODE_S,
    _NEW_S,
    _OTHERS,
    _LEFT_S,
    _PREFILL_S,
    _DECODES_S,
    _SLOWED_S,
    _BESIDE_S,
) = range(15)

_LEAST = (-math.inf, -math.inf, 0.0, 1.0, 1.0, 1e-3, 1e-3)
"""What the first rows are at least."""

_COEFFICIENTS: dict[int, dict[str, dict[str, float]]] = {
    _KV_USED: {"1": {"kv_used_blocks": 1.0}},
    _TOKENS: {"1": TOKENS, "prompt": {"": 1.0}},
    _TOKENS_BEYOND_FREE: {
        "1": TOKENS,
        "prompt": {"": 1.0},
        "block_size": {"kv_total_blocks": -1.0, "kv_used_blocks": 1.0},
    },
    _KV_TOTAL: {"1": {"kv_total_blocks": 1.0}},
    _BUDGET_LEFT: {"1": dict.fromkeys(RUNNING, -1.0), "token_budget": {"": 1.0}},
    _KV_RELEASED: {"1": {"kv_released_per_iteration": 1.0}},
    _SPEED: {"1": {"speed": 1.0}},
    _DECODE_S: {
        "overhead_s": {"": 1.0},
        "s_per_decode": dict.fromkeys(RUNNING, 1.0),
        "s_per_context_token": {"decode_context_tokens": 1.0},
    },
    _NEW_S: {"prompt*s_per_prefill_token": {"": 1.0}, "s_per_prefill_token": {"prefix_hit_tokens": -1.0}},
    _OTHERS: {"1": dict.fromkeys((*RUNNING, "waiting"), 1.0)},
    _LEFT_S: {"1": {"iteration_left_s": 1.0}},
    _PREFILL_S: {"prompt*s_per_prefill_token": {"": 1.0}, "s_per_prefill_token": TOKENS},
    _DECODES_S: {
        "later*overhead_s": {"": 1.0},
        "later*s_per_decode": dict.fromkeys(RUNNING, 1.0),
        "later*s_per_context_token": {"decode_context_tokens": 1.0},
        "later*longer_s": {"": 1.0},
    },
    _SLOWED_S: {"later*longer_s": dict.fromkeys(RUNNING, 1.0)},
    _BESIDE_S: {
        "later*s_per_decode": {"waiting": 1.0},
        "later*s_per_context_token": {"queued_prefill_tokens": 1.0},
    },
}
"""By row and term, what it is times: a column of a replica, or "" for 1."""


class RouterInputs:
    """Inputs of a fleet of one size; `update` fills them in place.

    log: (1 + REPLICA_INPUTS, R), the first row 1. request: (REQUEST_INPUTS + 1,), the last 1. flat: both in
    one piece of memory, without the first row. priors: (2, R), how much worse than the best, at most
    `worst_prior`. ttft_share: of the objective. illegal: bool (R,); None where all may be chosen.
    """

    def __init__(self, weights: Weights, num_replicas: int) -> None:
        units = weights["constants.replica_units"]
        self._terms, self._basis = np.empty(len(TERMS), np.float32), _basis(units)
        self._coefficients = np.empty((len(_COEFFICIENTS), 1 + COLUMNS), np.float32)
        self._coefficients_flat = self._coefficients.reshape(-1)
        # Views are made once: each costs as much as a short sum. So are constants, in the shape of what they
        # meet: to broadcast them costs as much again.
        sums = self._sums = np.empty((len(_COEFFICIENTS), num_replicas), np.float32)
        self._bounded, self._bounds = sums[: len(_LEAST)], _rows(_LEAST, num_replicas)
        self._numerators, self._denominators = sums[:3], sums[3:6]
        self._speed, self._decode_s, self._new_s = sums[_SPEED], sums[_DECODE_S], sums[_NEW_S]
        self._others, self._left_s, self._prefill_s = sums[_OTHERS], sums[_LEFT_S], sums[_PREFILL_S]
        self._parts_s, self._beside = sums[_PREFILL_S:], sums[_SLOWED_S:]
        raw = np.ones((1 + REPLICA_INPUTS, num_replicas), np.float32)
        first = 1 + COLUMNS
        self._columns, self._with_one, self._available = raw[1:first], raw[:first], raw[1]
        self._units = _rows(units[:COLUMNS], num_replicas)
        # Forecasts use their own rows as scratch until they are known.
        self._ratios, forecasts = raw[first : first + 3], raw[first + 1 : 1 + QUANTITIES]
        self._iterations, self._until_free = raw[first + 1], raw[first + 2]
        self._forecasts, self._quotients = forecasts, forecasts[:4]
        self._ttft_s, self._own_s, self._delay_s, self._marginal_s, self._crowded_s = forecasts
        self._forecast_factors = _rows(1.0 / units[COLUMNS + 1 :], num_replicas)
        self._amounts, self._relative = raw[1 : 1 + QUANTITIES], raw[1 + QUANTITIES :]
        self._relative_forecasts, self._inputs = self._relative[-len(FORECASTS) :], raw[1:]
        self._least = np.empty((QUANTITIES, 1), np.float32)
        self._least_flat = self._least[:, 0]
        self._zero, self._longest = np.zeros((), np.float32), weights["constants.longest_s"].reshape(())
        self._request_units = weights["constants.request_units"].tolist()
        self._worst = weights["constants.worst_prior"].reshape(())
        prior_s = weights["constants.prior_units_s"]
        self._prior_factors = units[COLUMNS + 1] / prior_s[0], units[COLUMNS + 4] / prior_s[1]
        self._objective: tuple[float, float] | None = None
        self._prior_weights = np.zeros((2, len(FORECASTS)), np.float32)
        memory = np.ones(raw.size + REQUEST_INPUTS + 1, np.float32)
        self.log = memory[: raw.size].reshape(raw.shape)
        self._log = self.log[1:]
        self.flat, self.request = memory[num_replicas:], memory[raw.size :]
        self.priors = np.empty((2, num_replicas), np.float32)
        self.ttft_share = 0.0
        self.illegal: np.ndarray | None = None

    def update(self, request: np.ndarray, replicas: np.ndarray, setting: np.ndarray) -> bool:
        """From raw `request` (4,), `replicas` (R, 15) and `setting` (9,); False where none may be chosen."""
        prompt, predicted, gap, priority = request.tolist()
        overhead_s, prefill_s, decode_s, context_s, budget, block, mean_output, *objective = setting.tolist()
        output = max(predicted if predicted > 0 else mean_output, 1.0)
        later = output - 1.0
        longer_s = decode_s + context_s * (prompt + 0.5 * output)
        setting_terms = (overhead_s, prefill_s, decode_s, context_s, budget, block)
        later_terms = (later * overhead_s, later * decode_s, later * context_s, later * longer_s)
        self._terms[...] = (1.0, prompt, *setting_terms, prompt * prefill_s, *later_terms)
        np.divide(replicas.T, self._units, self._columns)
        self._foretell()
        np.minimum.reduce(self._amounts, axis=1, out=self._least_flat)
        illegal = None if self._least_flat[0] > 0.5 else self._leave_out_illegal()
        self.illegal = illegal
        if illegal is not None and illegal.all():
            return False
        np.subtract(self._amounts, self._least, self._relative)
        if illegal is not None:
            np.copyto(self._inputs, 0.0, where=illegal)
        # Clocks of a serving system jitter below zero, where log1p would not be a number.
        np.maximum(self._inputs, self._zero, out=self._log)
        np.log1p(self._log, self._log)
        self._weigh(objective[0], objective[1])
        units = self._request_units
        self.request[:-1] = (
            _log(prompt / units[0]),
            _log(predicted / units[1]),
            _log(gap / units[2]),
            _log(priority / units[3]),
            self.ttft_share,
        )
        np.dot(self._prior_weights, self._relative_forecasts, self.priors)
        np.minimum(self.priors, self._worst, out=self.priors)
        return True

    def _foretell(self) -> None:
        """The share of KV blocks in use and forecasts, in units, from the columns in units."""
        zero, ttft_s, own_s = self._zero, self._ttft_s, self._own_s
        iterations, waits_s = self._iterations, self._new_s
        np.dot(self._terms, self._basis, self._coefficients_flat)
        np.dot(self._coefficients, self._with_one, self._sums)
        np.maximum(self._bounded, self._bounds, out=self._bounded)
        np.divide(self._numerators, self._denominators, self._ratios)
        np.ceil(iterations, iterations)
        np.add(iterations, self._until_free, iterations)
        np.multiply(iterations, self._decode_s, iterations)
        np.add(self._prefill_s, iterations, self._prefill_s)
        np.multiply(waits_s, self._others, waits_s)
        np.add(self._beside, waits_s, self._beside)
        np.divide(self._parts_s, self._speed, self._quotients)
        np.add(ttft_s, self._left_s, ttft_s)
        np.maximum(ttft_s, zero, out=ttft_s)
        np.minimum(ttft_s, self._longest, out=ttft_s)
        np.add(own_s, ttft_s, own_s)
        np.add(own_s, self._marginal_s, self._crowded_s)  # where the marginal latency goes stood what crowds
        np.add(own_s, self._delay_s, self._marginal_s)
        np.multiply(self._forecasts, self._forecast_factors, self._forecasts)

    def _leave_out_illegal(self) -> np.ndarray:
        """bool (R,), who may not be chosen; nothing of theirs counts among the least."""
        illegal: np.ndarray = np.logical_not(self._available > 0.5)
        np.copyto(self._amounts, np.inf, where=illegal)
        np.minimum.reduce(self._amounts, axis=1, out=self._least_flat)
        return illegal

    def _weigh(self, ttft_weight: float, latency_weight: float) -> None:
        """How much of the objective is TTFT, and how forecasts become priors by it."""
        if (ttft_weight, latency_weight) == self._objective:
            return
        self._objective = ttft_weight, latency_weight
        share = self.ttft_share = ttft_weight / max(ttft_weight + latency_weight, 1e-6)
        by_ttft, by_latency = self._prior_factors
        self._prior_weights[:, 0] = share * by_ttft
        self._prior_weights[0, 3] = self._prior_weights[1, 4] = (1.0 - share) * by_latency


def _basis(units: np.ndarray) -> np.ndarray:
    """From TERMS to the coefficients of columns in `units`, (terms, rows * (1 + COLUMNS))."""
    basis = np.zeros((len(TERMS), len(_COEFFICIENTS), 1 + COLUMNS))
    columns = ("", *REPLICA_FEATURES)
    for row, terms in _COEFFICIENTS.items():
        for term, factors in terms.items():
            for column, factor in factors.items():
                basis[TERMS.index(term), row, columns.index(column)] = factor
    basis[..., 1:] *= units[:COLUMNS]
    basis[:, _KV_USED] /= units[COLUMNS]
    return basis.reshape(len(TERMS), -1).astype(np.float32)


def _rows(values: Sequence[float] | np.ndarray, num_replicas: int) -> np.ndarray:
    return np.repeat(np.array(values, np.float32)[:, None], num_replicas, axis=1)


def _log(amount: float) -> float:
    return math.copysign(math.log1p(abs(amount)), amount)
