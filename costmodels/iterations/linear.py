"""`LinearClock`: an iteration's seconds as four numbers, small enough for a router to reckon with."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.cost import (
    IterationCost,
    decode_seconds,
    prefill_attention_seconds,
    step_seconds,
)
from servegym.costmodels.native.jit import jit

LEAST_CONTEXT_TOKENS = 128
"""The shortest context of a decode that a clock is fitted to."""


class LinearClock(NamedTuple):
    """Seconds of an iteration, linear in what it does; each number is at least 0.

    Ours. For engines whose decodes ride along with prefill chunks the terms add up.
    """

    overhead_s: float  # of every iteration
    s_per_prefill_token: float
    s_per_decode: float  # for each decoding request
    s_per_context_token: float  # for each token of KV that the decodes read


def check_clock(clock: LinearClock) -> None:
    """InputError unless every number is finite and at least 0, and an iteration takes time."""
    for name, value in clock._asdict().items():
        if not 0 <= value < np.inf:
            raise InputError(f"clock.{name} = {value}: must be at least 0 and finite")
    if sum(clock) == 0:
        raise InputError("clock = 0 in all its numbers: an iteration must take time")


def linear_clock(cost: IterationCost, kv_tokens: int) -> LinearClock:
    """The nearest to `cost` for an engine with room for `kv_tokens`: least squares of relative errors.

    The grid: one prefill chunk of 1/16, 2/16, ... of the token budget with nothing before it; 1, 2, 4, ...
    decodes up to the engine's seats, of 128, 256, ... tokens each as far as they fit into the KV cache. All
    chunks weigh as much as all decodes. InputError where not even one decode of 128 tokens fits.
    """
    from scipy.optimize import nnls  # slow to import, and only fitting needs it

    batches, seconds = _grid(cost, kv_tokens)
    is_chunk = batches[:, 1] > 0
    weights = np.where(is_chunk, 1 / np.sum(is_chunk), 1 / np.sum(~is_chunk))
    terms, _ = nnls(batches * (np.sqrt(weights) / seconds)[:, None], np.sqrt(weights))
    return LinearClock(*map(float, terms))


def linear_clock_error(clock: LinearClock, cost: IterationCost, kv_tokens: int) -> tuple[float, float]:
    """Mean absolute relative error of a clock on the chunks and on the decodes of that grid."""
    batches, seconds = _grid(cost, kv_tokens)
    errors = np.abs(batches @ np.array(clock) / seconds - 1.0)
    is_chunk = batches[:, 1] > 0
    return float(errors[is_chunk].mean()), float(errors[~is_chunk].mean())


def _grid(cost: IterationCost, kv_tokens: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Batches (N, 4) as a clock counts them: iterations, prefill tokens, decodes, context; seconds (N,)."""
    if kv_tokens < LEAST_CONTEXT_TOKENS:
        raise InputError(f"kv_tokens = {kv_tokens}: must be at least {LEAST_CONTEXT_TOKENS} to fit a clock")
    budget, seats = cost.linear_s.size - 1, cost.lm_head_s.size - 1
    batches = [(1, max(1, budget * part // 16), 0, 0) for part in range(1, 17)]
    for decodes in _doubling(1, seats):
        contexts = _doubling(LEAST_CONTEXT_TOKENS, kv_tokens // decodes)
        batches += [(1, 0, decodes, decodes * context) for context in contexts]
    table = np.array(batches, np.int64)
    return table.astype(np.float64), _seconds(cost, table)


def _doubling(first: int, last: int) -> list[int]:
    """first, 2 first, 4 first, ... up to `last`."""
    numbers = []
    while first <= last:
        numbers.append(first)
        first *= 2
    return numbers


@jit
def _seconds(cost: IterationCost, batches: NDArray[np.int64]) -> NDArray[np.float64]:
    seconds = np.empty(batches.shape[0])
    for i in range(batches.shape[0]):
        chunk, decodes, context = batches[i, 1], batches[i, 2], batches[i, 3]
        if decodes > 0:
            seconds[i] = decode_seconds(cost, decodes, context)
        else:
            step_s = cost.prefill_overhead_s + step_seconds(cost, chunk, 1)
            seconds[i] = step_s + prefill_attention_seconds(cost, chunk, 0)
    return seconds
