"""`IterationCost`: the time of one engine iteration as flat tables, and its evaluation.

The formula stands in docs/simulator.md, "The time of an iteration". The tables may come from the roofline
(compile.py) or from measurements; the evaluation does not care.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.jit import kernel

Floats = NDArray[np.float64]


class IterationCost(NamedTuple):
    """Seconds of an iteration by its terms; T = max_num_batched_tokens, M = max_num_seqs.

    Arrays are float64 and C-contiguous, knots increase strictly and are in tokens.
    """

    overhead_s: float  # of every iteration
    linear_s: Floats  # (T + 1,) by tokens in the batch
    communication_s: Floats  # (T + 1,) by tokens in the batch
    lm_head_s: Floats  # (M + 1,) by tokens sampled
    sampler_s: Floats  # (M + 1,) by tokens sampled
    prefill_chunk_knots: Floats  # (C,) new tokens of a chunk
    prefill_history_knots: Floats  # (H,) tokens computed before it
    prefill_s_per_pair: Floats  # (C, H) for each pair of a new token and one it attends to
    decode_kv_knots: Floats  # (K,) KV tokens of all decodes
    decode_attention_s: Floats  # (M + 1, K) by decodes, when nothing is prefilled
    mixed_decode_attention_s: Floats  # (M + 1, K) by decodes, beside prefill chunks
    mixed_s_per_pair: float  # for each decode and token of a prefill chunk in the same iteration
    prefill_overhead_s: float = 0.0  # of every iteration with a prefill chunk, beside `overhead_s`


def validate_iteration_cost(cost: IterationCost) -> None:
    """Raises `InputError` naming the field unless shapes fit, knots increase and every time is possible.

    Times must be finite and not negative (decode attention also where its first and last segment are
    continued), and every iteration must last longer than zero.
    """
    for name, value in cost._asdict().items():
        array = np.asarray(value)
        if array.dtype != np.float64 or not array.flags.c_contiguous or array.size == 0:
            raise InputError(
                f"IterationCost.{name} is {array.dtype}{array.shape}, must be C-contiguous float64"
            )
        bad = array[~(np.isfinite(array) & (array >= 0))]
        if bad.size:
            raise InputError(f"IterationCost.{name} holds {bad[0]}, must be finite and not negative")
    tokens, seqs = cost.linear_s.size, cost.lm_head_s.size
    chunks, histories, kvs = (
        knots.size for knots in (cost.prefill_chunk_knots, cost.prefill_history_knots, cost.decode_kv_knots)
    )
    shapes = {
        "overhead_s": (),
        "linear_s": (tokens,),
        "communication_s": (tokens,),
        "lm_head_s": (seqs,),
        "sampler_s": (seqs,),
        "prefill_chunk_knots": (chunks,),
        "prefill_history_knots": (histories,),
        "prefill_s_per_pair": (chunks, histories),
        "decode_kv_knots": (kvs,),
        "decode_attention_s": (seqs, kvs),
        "mixed_decode_attention_s": (seqs, kvs),
        "mixed_s_per_pair": (),
        "prefill_overhead_s": (),
    }
    for name, shape in shapes.items():
        found = np.shape(getattr(cost, name))
        if found != shape:
            raise InputError(f"IterationCost.{name} has shape {found}, must be {shape}")
    if not 2 <= seqs <= tokens:
        raise InputError(
            f"IterationCost.lm_head_s covers {seqs - 1} requests, must be 1 or more and at most the "
            f"{tokens - 1} tokens of linear_s"
        )
    for name in ("prefill_chunk_knots", "prefill_history_knots", "decode_kv_knots"):
        if not np.all(np.diff(getattr(cost, name)) > 0):
            raise InputError(f"IterationCost.{name} must increase strictly")
    if kvs > 1:
        for name in ("decode_attention_s", "mixed_decode_attention_s"):
            _require_not_sinking(name, getattr(cost, name), cost.decode_kv_knots)
    sampled = np.minimum.accumulate(cost.lm_head_s + cost.sampler_s)
    least = cost.overhead_s + cost.linear_s + cost.communication_s
    least += sampled[np.minimum(np.arange(tokens), seqs - 1)]
    idle = np.flatnonzero(least[1:] <= 0)
    if idle.size:
        raise InputError(
            f"IterationCost.linear_s[{idle[0] + 1}] and its other terms are 0 s, an iteration must take time"
        )


def _require_not_sinking(name: str, table: Floats, knots: Floats) -> None:
    """Raises `InputError` where the first or last segment, continued, gets below zero."""
    slopes = np.diff(table[1:], axis=1) / np.diff(knots)
    at_first = table[1:, 0]
    at_zero = at_first - slopes[:, 0] * knots[0]
    sinks = (at_zero < -1e-12 * at_first) | (slopes[:, -1] < 0)  # allows for rounding of `at_zero`
    if sinks.any():
        row = int(np.flatnonzero(sinks)[0]) + 1
        raise InputError(
            f"IterationCost.{name} row {row} becomes negative before its first or after its "
            "last knot, must stay at 0 or above"
        )


@kernel
def segment_of(knots: Floats, x: float) -> int:
    """The last segment that starts at or below `x` (the first where none does); 0 for one knot."""
    low, left = 0, knots.size - 1
    while left > 1:
        half = left >> 1
        low += half if knots[low + half] <= x else 0
        left -= half
    return low


@kernel
def _weight(knots: Floats, segment: int, x: float) -> float:
    """How far `x` lies into the segment, 0 to 1: constant beyond the ends; 0 for one knot."""
    if knots.size == 1:
        return 0.0
    share = (x - knots[segment]) / (knots[segment + 1] - knots[segment])
    return min(max(share, 0.0), 1.0)


@kernel
def _between(start: float, end: float, weight: float) -> float:
    """Linear interpolation that keeps `start` and `end` to the bit."""
    return (1.0 - weight) * start + weight * end


@kernel
def prefill_attention_seconds(cost: IterationCost, chunk: int, history: int) -> float:
    """Of one prefill chunk: its pairs times the seconds for a pair."""
    row = segment_of(cost.prefill_chunk_knots, chunk)
    column = segment_of(cost.prefill_history_knots, history)
    down = _weight(cost.prefill_chunk_knots, row, chunk)
    right = _weight(cost.prefill_history_knots, column, history)
    next_row = min(row + 1, cost.prefill_chunk_knots.size - 1)
    next_column = min(column + 1, cost.prefill_history_knots.size - 1)
    above = _between(cost.prefill_s_per_pair[row, column], cost.prefill_s_per_pair[row, next_column], right)
    below = _between(
        cost.prefill_s_per_pair[next_row, column], cost.prefill_s_per_pair[next_row, next_column], right
    )
    pairs = float(chunk) * history + 0.5 * chunk * (chunk + 1.0)
    return pairs * _between(above, below, down)


@kernel
def _decode_line(
    table: Floats, knots: Floats, num_decodes: int, segment: int, kv_tokens: float
) -> tuple[float, float]:
    """Decode attention at `kv_tokens` on the line of `segment`, and its slope in seconds a KV token."""
    start_s = table[num_decodes, segment]
    if knots.size == 1:
        return start_s, 0.0
    rise_s = table[num_decodes, segment + 1] - start_s
    slope = rise_s / (knots[segment + 1] - knots[segment])
    return start_s + slope * (kv_tokens - knots[segment]), slope


@kernel
def _decode_attention_seconds(table: Floats, knots: Floats, num_decodes: int, kv_tokens: int) -> float:
    if num_decodes == 0:
        return 0.0
    segment = 0
    if knots.size > 2:
        segment = segment_of(knots, kv_tokens)
    return _decode_line(table, knots, num_decodes, segment, kv_tokens)[0]


@kernel
def decode_attention_seconds(cost: IterationCost, num_decodes: int, kv_tokens: int) -> float:
    """Of all decodes of an iteration that prefills nothing; they hold `kv_tokens` together."""
    return _decode_attention_seconds(cost.decode_attention_s, cost.decode_kv_knots, num_decodes, kv_tokens)


@kernel
def mixed_decode_attention_seconds(
    cost: IterationCost, num_decodes: int, kv_tokens: int, prefill_tokens: int
) -> float:
    """The same beside `prefill_tokens` of prefill chunks, which engines may serve with another kernel."""
    return (
        _decode_attention_seconds(cost.mixed_decode_attention_s, cost.decode_kv_knots, num_decodes, kv_tokens)
        + cost.mixed_s_per_pair * num_decodes * prefill_tokens
    )


@kernel
def step_seconds(cost: IterationCost, num_tokens: int, num_sampled: int) -> float:
    """An iteration without its attention: overhead, linear, communication, LM head, sampler."""
    return (
        cost.overhead_s
        + cost.linear_s[num_tokens]
        + cost.communication_s[num_tokens]
        + cost.lm_head_s[num_sampled]
        + cost.sampler_s[num_sampled]
    )


@kernel
def decode_seconds(cost: IterationCost, num_decodes: int, kv_tokens: int) -> float:
    """One iteration of `num_decodes >= 1` decodes and nothing else."""
    return step_seconds(cost, num_decodes, num_decodes) + decode_attention_seconds(
        cost, num_decodes, kv_tokens
    )
