"""The fewest GPUs through time, for whoever knows all requests beforehand.

Time is cut into intervals as an autoscaler's. Of each, the fewest GPUs are sought with which a scheduler
answers enough of the requests that arrive in it. It is simulated alone, but for the seconds before it, whose
requests (with the same GPUs, not counted) leave behind queues and the scheduler's measured rates, and for the
seconds after it, in which none come. GPUs change at once and for nothing at the ends of intervals.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from servegym.envs.sim.batch.cluster import BatchCluster
from servegym.envs.sim.batch.scheduler import BatchScheduler
from servegym.envs.sim.batch.simulate import simulate_batches
from servegym.envs.sim.batch.state import GOOD
from servegym.envs.workloads.batch_workload import BatchWorkload


def fewest_gpus(
    cluster: BatchCluster,
    workload: BatchWorkload,
    scheduler: BatchScheduler,
    every_s: float,
    *,
    bad_share: float,
    before_s: float = 5.0,
) -> npt.NDArray[np.int64]:
    """(K,) GPUs in each interval of `every_s` from 0 to the last arrival, at least 1.

    At most `bad_share` of the requests of an interval are bad with them, unless all GPUs are too few.
    """
    ends = np.arange(1, np.ceil(workload.arrival_s[-1] / every_s) + 1) * every_s
    gpus = np.ones(len(ends), np.int64)
    guess = 1
    for interval, end_s in enumerate(ends):
        first, counted, last = np.searchsorted(
            workload.arrival_s, (end_s - every_s - before_s, end_s - every_s, end_s)
        )
        own = BatchWorkload(
            workload.name,
            workload.arrival_s[first:last] - max(0.0, end_s - every_s - before_s),
            workload.model[first:last],
        )

        def is_enough(count: int, own: BatchWorkload = own, counted: int = int(counted - first)) -> bool:
            results = simulate_batches(replace(cluster, num_gpus=count), own, scheduler)
            outcome = results.outcome[counted:]
            return not outcome.size or float((outcome != GOOD).mean()) <= bad_share

        while guess < cluster.num_gpus and not is_enough(guess):
            guess += 1
        while guess > 1 and is_enough(guess - 1):
            guess -= 1
        gpus[interval] = guess
    return gpus
