"""Prices of steps that no batch undercuts: what a request's tokens must take from the fleet."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from servegym.agents.bounds.batch_times import LeastTimes, attention_seconds
from servegym.costmodels.iterations.cost import Floats
from servegym.costmodels.native.jit import jit
from servegym.envs.workloads import Workload

_ENOUGH = 1e-4  # relative: prices this close to the best are good enough, any are valid
_ROUNDS = 40  # of adding batches to the linear program; stopping early is valid too


class Prices(NamedTuple):
    """Seconds for a step.

    A decode with v KV tokens costs `decode + kv_token * v`, a prefill chunk of n tokens
    `chunk + prefill_token * n + pair * pairs` (pairs of tokens as in docs/simulator.md).
    """

    decode: float
    kv_token: float
    prefill_token: float
    chunk: float
    pair: float

    def prefill_s(self, workload: Workload) -> Floats:
        """(N,): at least this is paid for each request's prompt, however it is cut into chunks."""
        prompt = workload.prompt_tokens.astype(np.float64)
        return self.chunk + self.prefill_token * prompt + self.pair * prompt * (prompt + 1) / 2

    def decode_s(self, workload: Workload) -> Floats:
        """(N,): and this for the rest of its output.

        A token is sampled by a decode with v tokens computed before, or, after a preemption by recompute, at
        the end of a prefill of v + 1 tokens, whichever is cheaper: two lines in v that cross at most once.
        """
        first = workload.prompt_tokens.astype(np.float64)
        end = first + workload.output_tokens - 1  # v runs from `first` to `end - 1`
        recompute_at_0 = self.chunk + self.prefill_token
        rise = self.prefill_token - self.kv_token
        surplus_at_0 = recompute_at_0 - self.decode
        if rise == 0:
            crossing = np.inf if surplus_at_0 < 0 else -np.inf
        else:
            crossing = -surplus_at_0 / rise
        middle = np.clip(np.ceil(crossing), first, end)
        if rise >= 0:  # recompute is cheaper below the crossing
            recomputed, decoded = (first, middle), (middle, end)
        else:
            decoded, recomputed = (first, middle), (middle, end)
        return _line_sum(recompute_at_0, self.prefill_token, *recomputed) + _line_sum(
            self.decode, self.kv_token, *decoded
        )


def _line_sum(at_0: float, slope: float, first: Floats, end: Floats) -> Floats:
    """Sum of `at_0 + slope * v` over the integers from `first` to `end - 1`."""
    count = end - first
    return at_0 * count + slope * count * (first + end - 1) / 2


class Steps(NamedTuple):
    """Which steps a workload can have, and how many of them it has in all."""

    decodes: float
    decode_kv_tokens: float
    prefill_tokens: float
    chunks: float
    least_kv: float  # of one decode
    most_kv: float
    most_members: int  # of one batch

    @classmethod
    def of(cls, workload: Workload, times: LeastTimes, *, with_decodes: bool = True) -> "Steps":
        """Of N >= 1 requests; without decodes only what leads to first tokens."""
        prompt = workload.prompt_tokens.astype(np.float64)
        decodes = (workload.output_tokens - 1.0) * with_decodes
        first = prompt[decodes > 0]
        last = (prompt + decodes - 1)[decodes > 0]
        return cls(
            float(decodes.sum()),
            float(((2 * prompt + decodes - 1) * decodes / 2).sum()),
            float(prompt.sum()),
            float(len(prompt)),
            float(first.min()) if first.size else 0.0,
            float(last.max()) if last.size else 0.0,
            min(times.sampled_s.size - 1, len(prompt)),
        )


def price_steps(times: LeastTimes, steps: Steps, members: float, replicas: Sequence[float]) -> list[Prices]:
    """Prices that no batch undercuts, from one linear program a weight.

    `sum of prices <= (members * number of steps + replica) * time of the batch`, for any steps in it.
    There is one answer for each `replica` weight (ascending), and no price in it is below the one before, so
    that steps priced by several answers cost in all what the first of them says or more. `members` is 1 where
    the time of those in the batch counts (latency), 0 for work alone.

    They are the optimum of a linear program, the greatest total of the workload (`steps`) under one
    constraint a batch, found by adding the batches that the last solution undercuts the most. Whatever the
    solver returns is then moved towards the prices before until every batch in the table keeps its
    constraint: the bounds rest on this check alone. It goes through decodes B, their KV tokens S at each knot
    and end of their range (all is piecewise linear in S) and prefill tokens x. Batches of several chunks are
    covered by those of one, as `chunk <= members * (time of the shortest iteration)`; `pair` is the least
    time a pair takes in a batch of one member.
    """
    kv_capacity = times.kv_knots[-1]
    limits = np.array([steps.least_kv, steps.most_kv, kv_capacity, float(steps.most_members)])
    with_decodes = steps.decodes > 0
    totals = np.array([steps.decodes, steps.decode_kv_tokens, steps.prefill_tokens, steps.chunks])
    most_chunk = members * (times.step_s[1] + times.sampled_s[0])
    before, all_prices = np.zeros(4), []
    batches = np.empty((0, 5))  # B, S, x, chunks, time
    for replica in replicas:
        weights = np.array([members, replica])
        if not batches.size:
            for column in range(3):
                batches = np.concatenate(
                    [
                        batches,
                        _tightest(times, limits, with_decodes, weights, np.zeros(4), np.eye(4)[column])[1],
                    ]
                )
        solution = before
        for _ in range(_ROUNDS):
            solution = _solve(batches, weights, totals, before, most_chunk)
            share, tightest = _tightest(times, limits, with_decodes, weights, before, solution)
            if share >= 1 - _ENOUGH:
                break
            batches = np.concatenate([batches, tightest])
        before = before + min(1.0, share) * (solution - before)
        decode, kv_token, prefill_token, chunk = before.tolist()
        pair = (members + replica) * times.s_per_pair
        all_prices.append(Prices(decode, kv_token, prefill_token, chunk, pair))
    return all_prices


def _solve(
    batches: Floats, weights: Floats, totals: Floats, least: Floats, most_chunk: float
) -> npt.NDArray[np.float64]:
    """Prices with the greatest total under the constraints of these batches; `least` if none are found."""
    from scipy.optimize import linprog  # slow to import

    size = batches[:, 0] + batches[:, 3]
    right = (weights[0] * size + weights[1]) * batches[:, 4]
    rows = batches[:, :4] / right[:, None]
    scale = np.maximum(rows.max(axis=0), 1e-300)
    answer = linprog(
        -totals / scale / max((totals / scale).max(), 1e-300),
        A_ub=rows / scale,
        b_ub=np.ones(len(rows)),
        bounds=[
            (low * each, most_chunk * each if column == 3 else None)
            for column, (low, each) in enumerate(zip(least, scale, strict=True))
        ],
        method="highs",
    )
    if answer.x is None:
        return least
    found = np.maximum(answer.x / scale, least)
    found[3] = min(found[3], most_chunk)
    return np.asarray(found)


@jit
def _tightest(
    times: LeastTimes, limits: Floats, with_decodes: bool, weights: Floats, before: Floats, prices: Floats
) -> tuple[float, Floats]:
    """How far one may go from `before` to `prices` (1: all the way), and batches that bind, two a number B.

    A batch binds at the share `(room - before . batch) / ((prices - before) . batch)` of the way.
    """
    least_kv, most_kv, capacity, most_members = limits
    most = int(most_members)
    budget = times.step_s.size - 1
    found = np.zeros((2 * most + 2, 5))
    shares = np.full(2 * most + 2, np.inf)
    stretch = prices - before
    for num_decodes in range(most + 1 if with_decodes else 1):
        sampled_s = times.sampled_s[num_decodes]
        mixed_limit = budget - num_decodes if num_decodes < most else 0
        for x in range(0 if num_decodes > 0 else 1, mixed_limit + 1):
            chunk = 1 if x > 0 else 0
            low = num_decodes * least_kv
            high = min(num_decodes * most_kv, capacity - num_decodes - x)
            if high < low:
                break  # such a batch does not fit into memory, nor does any with more
            table = times.mixed_s if chunk else times.decode_s
            fixed_s = times.step_s[num_decodes + x] + sampled_s + times.mixed_s_per_pair * num_decodes * x
            weight = weights[0] * (num_decodes + chunk) + weights[1]
            fixed_before = before[0] * num_decodes + before[2] * x + before[3] * chunk
            fixed_stretch = stretch[0] * num_decodes + stretch[2] * x + stretch[3] * chunk
            row = 2 * num_decodes + chunk
            for knot in range(-2, times.kv_knots.size):
                kv = low if knot == -2 else high
                if knot >= 0:
                    kv = times.kv_knots[knot]
                    if kv <= low or kv >= high:
                        continue
                time_s = fixed_s
                if num_decodes > 0:
                    time_s += attention_seconds(table, times.kv_knots, num_decodes, kv)
                more = fixed_stretch + stretch[1] * kv
                if more > 0:
                    share = (weight * time_s - fixed_before - before[1] * kv) / more
                    if share < shares[row]:
                        shares[row] = share
                        found[row, 0] = num_decodes
                        found[row, 1] = kv
                        found[row, 2] = x
                        found[row, 3] = chunk
                        found[row, 4] = time_s
    least = shares.min()
    return max(least, 0.0), found[(shares <= max(1.0, 1.5 * least)) & (found[:, 4] > 0)]
