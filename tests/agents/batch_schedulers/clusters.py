"""Tiny clusters for cases worked by hand: a batch of b takes 1 + b seconds, and there are no delays."""

import numpy as np

from servegym.agents.batch_schedulers import make_batch_scheduler
from servegym.envs.sim.batch.cluster import BatchCluster, Delays
from servegym.envs.sim.batch.model import ServedModel
from servegym.envs.sim.batch.simulate import BatchResults, simulate_batches
from servegym.envs.workloads.batch_workload import BatchWorkload

NO_DELAYS = Delays()

Batches = list[tuple[float, int, int, int]]
"""Start, model, GPU and size."""


def model_of(slo_s: float, max_batch: int = 8, base_s: float = 1.0) -> ServedModel:
    """Whose batch of b takes `base_s + b` seconds."""
    return ServedModel("m", tuple(base_s + size for size in range(1, max_batch + 1)), slo_s)


def serve(
    scheduler: str,
    models: list[ServedModel],
    num_gpus: int,
    requests: list[tuple[float, int]],
    delays: Delays = NO_DELAYS,
    **parameters: object,
) -> tuple[BatchResults, Batches]:
    """What becomes of requests, each its arrival and its model, and the batches in order of their start."""
    workload = BatchWorkload(
        "by hand",
        np.array([arrival_s for arrival_s, _ in requests]),
        np.array([model for _, model in requests], np.int32),
    )
    cluster = BatchCluster(tuple(models), num_gpus, delays)
    results = simulate_batches(cluster, workload, make_batch_scheduler(scheduler, **parameters), log=True)
    assert results.batches is not None
    return results, [
        (float(row["start_s"]), int(row["model"]), int(row["gpu"]), int(row["num_requests"]))
        for row in results.batches
    ]
