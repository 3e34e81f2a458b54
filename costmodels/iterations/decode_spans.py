"""Many decode iterations in a row: decode attention is piecewise linear in the KV total, so they have a
closed form on each of its lines.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from servegym.costmodels.iterations.cost import IterationCost, segment_of
from servegym.costmodels.native.jit import kernel


class DecodeLines(NamedTuple):
    """Iterations that only decode, by decodes 0 to M, as these functions need them."""

    kv_knots: NDArray[np.float64]  # (K,) KV tokens of all decodes
    step_s: NDArray[np.float64]  # (M + 1,) an iteration without its attention
    attention: NDArray[
        np.float64
    ]  # (M + 1, max(1, K - 1), 2) seconds at a knot, and more for each KV token from there on


def decode_lines(cost: IterationCost) -> DecodeLines:
    """Of an iteration cost."""
    rows, knots = len(cost.lm_head_s), cost.decode_kv_knots
    step_s = (
        cost.overhead_s + cost.linear_s[:rows] + cost.communication_s[:rows] + cost.lm_head_s + cost.sampler_s
    )
    attention = np.zeros((rows, max(1, len(knots) - 1), 2))
    attention[:, :, 0] = cost.decode_attention_s[:, : attention.shape[1]]
    if len(knots) > 1:
        attention[:, :, 1] = np.diff(cost.decode_attention_s, axis=1) / np.diff(knots)
    return DecodeLines(knots, step_s, attention)


@kernel
def line_seconds(first_s: float, growth_s: float, count: float) -> float:
    """`count` iterations of which the first lasts `first_s` and each next one `growth_s` more."""
    return count * (first_s + 0.5 * growth_s * (count - 1.0))


@kernel
def _line_count(first_s: float, growth_s: float, seconds: float) -> float:
    """The inverse of `line_seconds`: the smaller root of a quadratic, in the form that does not cancel."""
    a = 0.5 * growth_s
    b = first_s - a
    root = math.sqrt(max(b * b + 4.0 * a * seconds, 0.0))
    return 2.0 * seconds / (b + root) if b > 0.0 else (root - b) / (2.0 * a)


@kernel
def decode_line(lines: DecodeLines, num_decodes: int, segment: int, kv: float) -> tuple[float, float]:
    """Seconds of an iteration on the line of `segment`, and how much longer each next one on it lasts."""
    slope = lines.attention[num_decodes, segment, 1]
    first_s = lines.step_s[num_decodes] + (
        lines.attention[num_decodes, segment, 0] + slope * (kv - lines.kv_knots[segment])
    )
    return first_s, slope * num_decodes


@kernel
def _walk(
    lines: DecodeLines, num_decodes: int, kv_tokens: int, num_iterations: int, seconds: float
) -> tuple[float, float, float, float, float, int]:
    """Decode iterations line by line of decode attention, up to the line on which `seconds` are exceeded.

    Returns the iterations before that line and their seconds, its first iteration and the growth from one
    to the next (s), its number of iterations: 0 where all `num_iterations` fit, and its segment.
    """
    # Floats throughout: whole numbers stay exact up to 2**53, and nothing overflows.
    left, done, elapsed_s, kv = float(num_iterations), 0.0, 0.0, float(kv_tokens)
    decodes, knots = float(num_decodes), lines.kv_knots
    last = knots.size - 2
    segment = 0
    if last > 0:
        segment = segment_of(knots, kv)
    first_s = growth_s = count = 0.0
    while left > 0.0:
        first_s, growth_s = decode_line(lines, num_decodes, segment, kv)
        count = left
        if segment < last and kv + (left - 1.0) * decodes >= knots[segment + 1]:
            to_knot = math.ceil((knots[segment + 1] - kv) / decodes)
            count = min(left, max(1.0, float(to_knot)))
        line_s = line_seconds(first_s, growth_s, count)
        if not elapsed_s + line_s <= seconds:
            break
        elapsed_s += line_s
        done += count
        left -= count
        kv += count * decodes
        count = 0.0
        while segment < last and kv >= knots[segment + 1]:
            segment += 1
    return done, elapsed_s, first_s, growth_s, count, segment


@kernel
def decode_span_seconds(lines: DecodeLines, num_decodes: int, kv_tokens: int, num_iterations: int) -> float:
    """`num_iterations` decode-only iterations in a row; each adds `num_decodes >= 1` KV tokens.

    The first one starts with `kv_tokens`. Closed form on each line of decode attention.
    """
    return _walk(lines, num_decodes, kv_tokens, num_iterations, math.inf)[1]


@kernel
def decode_iterations_within(
    lines: DecodeLines, num_decodes: int, kv_tokens: int, max_iterations: int, seconds: float
) -> tuple[int, float, float, int, int]:
    """The largest `n <= max_iterations` whose `decode_span_seconds` is at most `seconds`, and that span.

    Exact with respect to `decode_span_seconds`; `(0, 0.0, ...)` where not one iteration fits. The other
    numbers are how long the iteration after these lasts, the segment of its line of decode attention, and how
    many of those after it are on the same line; 0 where all `max_iterations` fit.
    """
    if max_iterations <= 0:
        return 0, 0.0, 0.0, 0, 0
    done, elapsed_s, first_s, growth_s, count, segment = _walk(
        lines, num_decodes, kv_tokens, max_iterations, seconds
    )
    if count == 0.0:
        return max_iterations, elapsed_s, 0.0, 0, 0
    if not elapsed_s + first_s <= seconds:
        return int(done), elapsed_s, first_s, segment, int(count) - 1
    # The root of the quadratic is right to about one. The two counts beside it are tried at once, which costs
    # less than trying one after the other and is nearly always enough.
    n = min(max(math.floor(_line_count(first_s, growth_s, seconds - elapsed_s)), 1.0), count - 1.0)
    span_s = elapsed_s + line_seconds(first_s, growth_s, n)
    more_s = elapsed_s + line_seconds(first_s, growth_s, n + 1.0)
    while span_s > seconds:
        n -= 1.0
        span_s, more_s = elapsed_s + line_seconds(first_s, growth_s, n), span_s
    while n + 1.0 < count and more_s <= seconds:
        n += 1.0
        span_s, more_s = more_s, elapsed_s + line_seconds(first_s, growth_s, n + 1.0)
    return int(done + n), span_s, first_s + growth_s * n, segment, int(count - n) - 1
