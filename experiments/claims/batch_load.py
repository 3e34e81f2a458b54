"""Requests of the claims about batch serving, and the rates at which too many of them are bad."""

import functools
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from servegym.envs.sim.batch.cluster import BatchCluster
from servegym.envs.sim.batch.scheduler import BatchScheduler
from servegym.envs.sim.batch.simulate import simulate_batches
from servegym.envs.workloads.batch_arrivals import generate_batch_workload
from servegym.envs.workloads.batch_workload import BatchWorkload
from servegym.experiments.evaluation.goodput import largest_rate

BAD_SHARE = 0.01
"""Goodput is the largest rate with at most so many bad requests."""

TOLERANCE = 0.003

STEP = 0.01
"""Between the rates of a ladder."""


@functools.lru_cache(32)
def poisson(num_requests: int, seed: int) -> BatchWorkload:
    """Requests of one model, one a second."""
    return generate_batch_workload("poisson", 1.0, [1.0], num_requests, np.random.SeedSequence(seed))


def keeps(
    cluster: BatchCluster, scheduler: BatchScheduler, workload: BatchWorkload
) -> Callable[[float], bool]:
    """Of a rate in requests/s: whether at most BAD_SHARE of the workload is bad at that rate."""

    def holds(rate_rps: float) -> bool:
        at_rate = workload.scale_rate(rate_rps / workload.rate_rps)
        return simulate_batches(cluster, at_rate, scheduler).bad_share <= BAD_SHARE

    return holds


def goodput_rps(
    cluster: BatchCluster, scheduler: BatchScheduler, workload: BatchWorkload, guess: float
) -> float:
    """By bisection: a rate that holds and does not where it is `1 + TOLERANCE` as large."""
    return largest_rate(keeps(cluster, scheduler, workload), guess, TOLERANCE)


def crossings_rps(holds: Callable[[float], bool], lowest: float, highest: float) -> tuple[float, float]:
    """The rates after which it first fails and last holds, on a ladder of rates a STEP apart.

    They differ where the bad share does not grow with the rate everywhere. `lowest` must hold, and `highest`
    must not.
    """
    rates = lowest * (1 + STEP) ** np.arange(np.ceil(np.log(highest / lowest) / np.log1p(STEP)) + 1)
    first = next(before for before, rate in pairwise(rates) if not holds(rate))
    last = next(rate for rate in rates[::-1] if rate <= first or holds(rate))
    return float(first), float(last)
