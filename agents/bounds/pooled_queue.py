"""The fleet as one fast server that may share itself out and be interrupted at will."""

import heapq

import numpy as np

from servegym.costmodels.iterations.cost import Floats
from servegym.costmodels.native.jit import jit


@jit
def least_total_flow_time(arrival_s: Floats, work_s: Floats, speed: float) -> float:
    """Sum over N jobs of completion minus arrival under shortest remaining processing time.

    Jobs of `work_s` (N,) seconds at speed 1, arrivals (N,) ascending. No schedule on one machine has less
    (Schrage, A proof of the optimality of the shortest remaining processing time discipline, 1968). And no
    schedule of R replicas has less at speed R, where each replica does at most a second of work in a
    second: do at any instant on the fast machine the work that all replicas do, in turns within vanishing
    intervals, and every job completes when it did.
    """
    total, now, i = 0.0, 0.0, 0
    waiting = [(0.0, 0)]
    waiting.pop()
    num_jobs = len(arrival_s)
    while i < num_jobs or len(waiting) > 0:
        if len(waiting) == 0:
            now = max(now, arrival_s[i])
        while i < num_jobs and arrival_s[i] <= now:
            heapq.heappush(waiting, (work_s[i], i))
            i += 1
        left, job = heapq.heappop(waiting)
        end = now + left / speed
        if i < num_jobs and arrival_s[i] < end:
            heapq.heappush(waiting, (left - (arrival_s[i] - now) * speed, job))
            now = arrival_s[i]
        else:
            total += end - arrival_s[job]
            now = end
    return total


def least_mean_flow_time(arrival_s: Floats, work_s: Floats, speed: float) -> float:
    """The mean of the same; NaN for no jobs."""
    if len(arrival_s) == 0:
        return np.nan
    return float(least_total_flow_time(arrival_s, work_s, speed)) / len(arrival_s)
