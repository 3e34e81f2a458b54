"""Latency against throughput: replicas' time has a price, which small batches pay and large ones share."""

import numpy as np
import numpy.typing as npt

from servegym.costmodels.iterations.cost import Floats
from servegym.costmodels.native.jit import jit

_SPANS = 64  # of time with a price each
_BLOCKS = (16, 8, 4, 2, 1)  # of spans moved together to the next price up or down
_SWEEPS = 8  # over all blocks of a size
_TAILS = (0, 1, 2, 4, 8)  # spans for which the first price tried lasts after the last arrival


def least_total_latency(
    arrival_s: Floats,
    alone_s: Floats,
    weights: Floats,
    prices_s: Floats,
    num_replicas: int,
    queue_end_s: float,
) -> float:
    """Lower bound on the sum over N requests of the time from arrival to the end, under any policy.

    arrival_s (N,) ascending; alone_s (N,) least time in the system;
    weights (L,) ascending from 0 and prices_s (L, N): what each request pays at least where every batch of b
    members pays `(b + weight) * its time`; see `price_steps`. queue_end_s: until when it may pay to
    give time a price at all, such as when the fleet could be done; any number is valid.

    Proof (weak duality). Give each second of a replica at time t a price `m(t) >= 0`, one of the weights in
    each span of time. R replicas run at most R iterations at once, so for any schedule, over its
    iterations k,

        sum of latencies >= sum of latencies + sum_k integral over k of m(t) dt - R * integral of m(t) dt.

    Now share the second term out among the requests: of an iteration with time T, in which m is at least
    w, each member gets what the price of its step at w exceeds T by, or nothing. That is no more than there
    is: those who get something, b of them, have prices of at most `(b + w) T` together. As prices rise with
    m, a request in the system from a to F where m is at least w has

        latency + shares >= max(F - a, alone_s, prices at w),

    since its shares are at least 0, and its latency at least the time of all its iterations. Hence

        sum of latencies >= sum_i min over F of max(F - a_i, alone_i, prices_i at w) - R * integral of m.

    Any m gives a bound: m is chosen by hill climbing from the best constant, and what is returned is
    the value at its end.
    """
    if len(arrival_s) == 0:
        return 0.0
    end_s = max(float((arrival_s + alone_s).max()), queue_end_s)  # beyond it time is free
    edges = np.linspace(arrival_s[0], end_s, _SPANS + 1)
    span = np.clip(np.searchsorted(edges, arrival_s, side="right") - 1, 0, _SPANS - 1)
    problem = (arrival_s, alone_s, weights, prices_s, edges, span, num_replicas)
    after_last = np.arange(_SPANS) - span[-1]
    starts = [np.where(after_last <= tail, level, 0) for level in range(len(weights)) for tail in _TAILS]
    values = [_value(*problem, start) for start in starts]
    return float(_climb(*problem, starts[int(np.argmax(values))]))


@jit
def _paid(
    i: int,
    arrival_s: Floats,
    alone_s: Floats,
    weights: Floats,
    prices_s: Floats,
    edges: Floats,
    span: npt.NDArray[np.int64],
    levels: npt.NDArray[np.int64],
) -> float:
    """The least that request i pays, over the spans in which it may end (the last: after all of them)."""
    least, lowest = np.inf, levels[span[i]]
    for end in range(span[i], levels.size + 1):
        lowest = min(lowest, levels[end] if end < levels.size else 0)
        waited_s = max(alone_s[i], edges[end] - arrival_s[i])
        if waited_s >= least:
            break
        least = min(least, max(waited_s, prices_s[lowest, i]))
    return least


@jit
def _value(
    arrival_s: Floats,
    alone_s: Floats,
    weights: Floats,
    prices_s: Floats,
    edges: Floats,
    span: npt.NDArray[np.int64],
    num_replicas: int,
    levels: npt.NDArray[np.int64],
) -> float:
    total = 0.0
    for i in range(arrival_s.size):
        total += _paid(i, arrival_s, alone_s, weights, prices_s, edges, span, levels)
    for j in range(levels.size):
        total -= num_replicas * weights[levels[j]] * (edges[j + 1] - edges[j])
    return total


@jit
def _climb(
    arrival_s: Floats,
    alone_s: Floats,
    weights: Floats,
    prices_s: Floats,
    edges: Floats,
    span: npt.NDArray[np.int64],
    num_replicas: int,
    start: npt.NDArray[np.int64],
) -> float:
    """Moves blocks of spans to the next price while that raises the bound; returns the bound."""
    levels = start.copy()
    paid = np.empty(arrival_s.size)
    for i in range(arrival_s.size):
        paid[i] = _paid(i, arrival_s, alone_s, weights, prices_s, edges, span, levels)
    trial = np.empty(arrival_s.size)
    # A request that ends in a span pays its wait at least, so that earlier arrivals than these never care.
    reach_s = prices_s.max()
    for block in _BLOCKS:
        for _ in range(_SWEEPS):
            moved = False
            for low in range(0, levels.size, block):
                high = min(low + block, levels.size)
                first = np.searchsorted(arrival_s, edges[low] - reach_s)
                after = np.searchsorted(span, high)
                for step in (-1, 1):
                    was = levels[low:high].copy()
                    gain = 0.0
                    for j in range(low, high):
                        levels[j] = min(max(was[j - low] + step, 0), weights.size - 1)
                        saved = weights[was[j - low]] - weights[levels[j]]
                        gain += num_replicas * saved * (edges[j + 1] - edges[j])
                    for i in range(first, after):
                        trial[i] = _paid(i, arrival_s, alone_s, weights, prices_s, edges, span, levels)
                        gain += trial[i] - paid[i]
                    if gain > 0:
                        paid[first:after] = trial[first:after]
                        moved = True
                    else:
                        levels[low:high] = was
            if not moved:
                break
    return _value(arrival_s, alone_s, weights, prices_s, edges, span, num_replicas, levels)
