"""The time of one engine iteration, in plain Python, from docs/simulator.md."""

from collections.abc import Sequence
from typing import Any

from tests.reference.lookup import LookupCost


def iteration_s(
    cost: Any, chunks: Sequence[tuple[int, int]], num_decodes: int, kv_tokens: int, sampled: int
) -> float:
    """Seconds of an iteration, as in "The time of an iteration".

    `cost` is any object with the fields of `IterationCost`, or a `LookupCost`; `chunks` are the prefill
    chunks `(new tokens, computed tokens before them)`; `num_decodes` requests decode, whose computed tokens
    sum to `kv_tokens`; `sampled` requests sample a token at the end.
    """
    if isinstance(cost, LookupCost):
        return cost.iteration_s(chunks, num_decodes, kv_tokens)
    tokens = sum(chunk for chunk, _ in chunks) + num_decodes
    seconds = float(cost.overhead_s)
    seconds += float(cost.linear_s[tokens]) + float(cost.communication_s[tokens])
    seconds += float(cost.lm_head_s[sampled]) + float(cost.sampler_s[sampled])
    for chunk, history in chunks:
        pairs = chunk * history + chunk * (chunk + 1) / 2
        seconds += pairs * prefill_s_per_pair(cost, chunk, history)
    if not chunks:
        return seconds + decode_attention_s(cost, cost.decode_attention_s, num_decodes, kv_tokens)
    seconds += float(cost.prefill_overhead_s)
    seconds += decode_attention_s(cost, cost.mixed_decode_attention_s, num_decodes, kv_tokens)
    return seconds + float(cost.mixed_s_per_pair) * num_decodes * (tokens - num_decodes)


def prefill_s_per_pair(cost: Any, chunk: int, history: int) -> float:
    """Seconds per (query, key) pair: bilinear between the knots, constant beyond them."""
    table = cost.prefill_s_per_pair
    low_c, high_c, c = _between(cost.prefill_chunk_knots, chunk)
    low_h, high_h, h = _between(cost.prefill_history_knots, history)
    at_low_c = (1 - h) * float(table[low_c][low_h]) + h * float(table[low_c][high_h])
    at_high_c = (1 - h) * float(table[high_c][low_h]) + h * float(table[high_c][high_h])
    return (1 - c) * at_low_c + c * at_high_c


def decode_attention_s(cost: Any, table: Any, num_decodes: int, kv_tokens: int) -> float:
    """Seconds of decode attention by `table`: piecewise linear in `kv_tokens`, outer segments continued."""
    if num_decodes == 0:
        return 0.0
    knots = [float(knot) for knot in cost.decode_kv_knots]
    values = [float(value) for value in table[num_decodes]]
    if len(knots) == 1:
        return values[0]
    segment = 0
    while segment < len(knots) - 2 and kv_tokens > knots[segment + 1]:
        segment += 1
    slope = (values[segment + 1] - values[segment]) / (knots[segment + 1] - knots[segment])
    return values[segment] + slope * (kv_tokens - knots[segment])


def _between(knots: Sequence[float], x: float) -> tuple[int, int, float]:
    """The knots on either side of `x` and how far `x` is from the first to the second (0 to 1)."""
    last = len(knots) - 1
    if x <= knots[0]:
        return 0, 0, 0.0
    if x >= knots[last]:
        return last, last, 0.0
    high = 0
    while knots[high] < x:
        high += 1
    low = high - 1
    return low, high, (x - float(knots[low])) / (float(knots[high]) - float(knots[low]))
