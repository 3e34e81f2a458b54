"""How many requests can meet their objectives at all."""

import numpy as np
import numpy.typing as npt

from servegym.agents.bounds.alone import LeastAlone
from servegym.costmodels.iterations.cost import Floats
from servegym.costmodels.native.jit import jit
from servegym.envs.metrics import SloLimits
from servegym.envs.workloads import Workload

_INSTANTS = 96  # between which windows are looked at
_SIZES = 2048  # classes of requests by their work
_ROUNDING = 1e-9  # relative: a request this close to its limit may yet meet it


def most_on_time(
    workload: Workload,
    limits: SloLimits,
    alone: LeastAlone,
    work_s: Floats,
    weights: Floats,
    prices_s: Floats,
    num_replicas: int,
) -> int:
    """Upper bound on the requests that finish within both limits, under any policy.

    work_s (N,), weights (L,) above 0 and prices_s (L, N) as in `least_total_latency`.

    Proof. A request that `alone` is too slow never counts. Another can be in the system for at most
    `X = TTFT limit + (o - 1) TPOT limit`, so if it counts it lives within its window `[a, a + X]`. Let A be
    the ones that count and whose windows lie in [s, t]. Each iteration with b of them in it has
    `(b + w) time >= prices of their steps` for each weight w; added up over all of these,

        sum of prices <= sum of times in iterations + w R (t - s) <= sum of X + w R (t - s),

    so `sum over A of (price - X) / w <= R (t - s)`: what a request needs beyond the time it has must come out
    of the replicas. Likewise `sum over A of work <= R (t - s)`. This holds for part of A as well, so terms
    below 0 are dropped; the most requests with
    windows in [s, t] that can count are then those with the least to claim (Moore and Hodgson's argument,
    1968, for one window). Losses of windows that do not overlap concern different requests and add up: the
    best such choice on a grid of instants is found by dynamic programming, for each w and for work alone.
    """
    gaps = workload.output_tokens - 1.0
    ttft_s = np.broadcast_to(np.asarray(limits.ttft_s, np.float64), gaps.shape)
    pace_s = np.broadcast_to(np.asarray(limits.tpot_s, np.float64), gaps.shape)
    decode_limit_s = np.where(gaps > 0, pace_s, 0.0) * np.maximum(gaps, 1)
    slack = 1 + _ROUNDING
    feasible = (alone.first_token_s <= ttft_s * slack) & (alone.decode_s <= decode_limit_s * slack)
    allowed_s = ttft_s + decode_limit_s
    bounded = feasible & np.isfinite(allowed_s)
    count = int(np.count_nonzero(feasible))
    if not bounded.any():
        return count
    arrival_s, allowed_s = workload.arrival_s[bounded], allowed_s[bounded]
    deadline_s = (arrival_s + allowed_s) * slack
    instants = np.linspace(arrival_s[0], deadline_s.max(), _INSTANTS + 1)
    first = np.searchsorted(instants, arrival_s, side="right") - 1  # windows grow to instants
    last = np.minimum(np.searchsorted(instants, deadline_s), _INSTANTS)
    lost = 0
    beyond_s = np.maximum(prices_s[:, bounded] - allowed_s * slack, 0.0)
    for claim_s in (work_s[bounded], *(beyond_s / weights[:, None])):
        if claim_s.max() > 0:
            sizes = claim_s.max() * np.arange(_SIZES) / (_SIZES - 1)
            size = np.searchsorted(sizes, claim_s, side="right") - 1
            lost = max(lost, _most_lost(instants, first, last, sizes, size, num_replicas * slack))
    return count - int(lost)


@jit
def _most_lost(
    instants: Floats,
    first: npt.NDArray[np.int64],
    last: npt.NDArray[np.int64],
    sizes: Floats,
    size: npt.NDArray[np.int64],
    speed: float,
) -> int:
    """The most requests that windows [s, t] without overlap exclude, each claim rounded down to its size."""
    num_instants = instants.size
    order = np.argsort(last)
    lost = np.zeros((num_instants, num_instants), np.int64)
    for s in range(num_instants - 1):
        counts = np.zeros(sizes.size, np.int64)
        inside, at = 0, 0
        for t in range(s + 1, num_instants):
            while at < order.size and last[order[at]] <= t:
                request = order[at]
                at += 1
                if first[request] >= s:
                    counts[size[request]] += 1
                    inside += 1
            left, kept = speed * (instants[t] - instants[s]), counts[0]
            for i in range(1, sizes.size):
                if counts[i] == 0:
                    continue
                fit = min(counts[i], int(left / sizes[i]))
                kept += fit
                left -= fit * sizes[i]
                if fit < counts[i]:
                    break
            lost[s, t] = inside - kept
    best = np.zeros(num_instants, np.int64)
    for t in range(1, num_instants):
        best[t] = best[t - 1]
        for s in range(t):
            best[t] = max(best[t], best[s] + lost[s, t])
    return int(best[-1])
