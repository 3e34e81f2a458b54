"""What a given policy costs on average: from the stationary distribution of its Markov chain, no simulation.

Shares nothing with the solver but the law of arrivals: no truncated tail (the chain is made as long as it
takes), no discrete time, no values.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_banded

from servegym.agents.smdp.arrivals import arrivals
from servegym.costmodels.errors import InputError
from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario

Sizes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

NEGLIGIBLE = 1e-12
MOST_STATES = 1 << 15
SHIFT = 1e-14


@dataclass(frozen=True)
class Evaluation:
    """Long-run averages. Where the queue grows without end, `cost` and `response_s` are inf."""

    cost: float
    """`response_weight * response_s + power_weight * power_w`."""
    response_s: float
    power_w: float
    mean_batch: float
    utilisation: float
    """Share of the time in which a batch runs."""
    queue_shares: Floats
    """(n,): of all decisions the share with 0, 1, ... requests waiting."""


def evaluate(scenario: DynamicBatchingScenario, sizes: npt.ArrayLike) -> Evaluation:
    """sizes: (n,), the batch to start when 0, 1, ... requests wait, 0 to wait; the last for any more.

    InputError for a size that is not allowed, and for loads at which the queue has no practical end.
    """
    table = _checked(scenario, sizes)
    rate, last = scenario.rate_rps, int(table[-1])
    latency_s, joules = np.array((0.0, *scenario.latency_s)), np.array((0.0, *scenario.joules))
    if last <= rate * latency_s[last]:
        power_w = joules[last] / latency_s[last] if last else 0.0
        return Evaluation(np.inf, np.inf, power_w, last, float(last > 0), np.zeros(0))
    count = 64
    while True:
        batch = table[np.minimum(np.arange(count), len(table) - 1)]
        shares = _stationary(rate, batch, latency_s)
        if shares[-1] < NEGLIGIBLE:
            break
        count *= 2
        if count > MOST_STATES:
            raise InputError(
                f"scenario.rate_rps = {rate:g}: too near to what the policy can serve, "
                f"{last / latency_s[last]:g}"
            )
    duration_s = np.where(batch > 0, latency_s[batch], 1 / rate)
    # Those who arrive meanwhile are there half the time of a batch; a wait ends when one arrives.
    present_s = np.arange(count) * duration_s + np.where(batch > 0, rate * duration_s**2 / 2, 0.0)
    cycle_s = shares @ duration_s
    response_s = float(shares @ present_s / cycle_s / rate)
    power_w = float(shares @ joules[batch] / cycle_s)
    return Evaluation(
        cost=scenario.response_weight * response_s + scenario.power_weight * power_w,
        response_s=response_s,
        power_w=power_w,
        mean_batch=float(shares @ batch / shares[batch > 0].sum()),
        utilisation=float(shares @ latency_s[batch] / cycle_s),
        queue_shares=shares,
    )


def _checked(scenario: DynamicBatchingScenario, sizes: npt.ArrayLike) -> Sizes:
    table = np.asarray(sizes, np.int64)
    if table.ndim != 1 or len(table) == 0:
        raise InputError(f"batch sizes: have shape {table.shape}, must be (n,) with at least one")
    queue = np.arange(len(table))
    legal = (table == 0) | ((table >= scenario.min_batch) & (table <= scenario.max_batch) & (table <= queue))
    if not legal.all():
        at = int(np.argmin(legal))
        raise InputError(
            f"batch sizes: {table[at]} with {at} requests waiting, must be 0 or from {scenario.min_batch} to "
            f"{min(at, scenario.max_batch)}"
        )
    return table


def _stationary(rate: float, batch: Sizes, latency_s: Floats) -> Floats:
    """Of the number of requests at decisions, (n,), at most n - 1."""
    count = len(batch)
    drawn = {
        int(size): arrivals(rate * latency_s[size]) if size else (np.array([1]), np.array([1.0]))
        for size in np.unique(batch)
    }
    below = max(int(added[-1]) - size for size, (added, _) in drawn.items())
    above = max(size - int(added[0]) for size, (added, _) in drawn.items())
    below, above = max(below, 0), max(above, 0)
    # Column j holds what leaves state j: minus 1 on the diagonal, the chances of a step to i in row i.
    bands = np.zeros((below + above + 1, count))
    for size, (added, probabilities) in drawn.items():
        start = np.flatnonzero(batch == size)
        after = np.minimum((start - size)[:, None] + added, count - 1)
        np.add.at(bands, (above + after - start[:, None], start[:, None]), probabilities)
    bands[above] -= 1.0 + SHIFT
    # Inverse iteration: the shares are the vector that these equations take to 0, but for the shift.
    shares = np.full(count, 1.0 / count)
    for _ in range(3):
        shares = solve_banded((below, above), bands, shares)
        shares /= shares.sum()
    return np.asarray(np.maximum(shares, 0.0))
