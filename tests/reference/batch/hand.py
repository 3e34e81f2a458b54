"""Small cases to be worked out by hand: models in one line, and who was served where and when."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from servegym.envs.sim.batch.cluster import BatchCluster, Delays
from servegym.envs.sim.batch.model import ServedModel
from servegym.envs.workloads.batch_workload import BatchWorkload
from tests.reference.batch.autoscaling import Autoscaling
from tests.reference.batch.results import BatchResults
from tests.reference.batch.simulate import simulate

UNIT_S = 1 / 1024
"""Times of cases are in this unit: exact in float64, and short beside the buckets of the rate meter."""


def model(
    latencies: Sequence[float] = (5, 6, 7, 8), slo: float = math.inf, load: float = 0, memory: float = 0
) -> ServedModel:
    """By default `l(b) = 4 + b`, up to 4 requests. All in units."""
    seconds = tuple(latency * UNIT_S for latency in latencies)
    return ServedModel("m", seconds, slo * UNIT_S, load_s=load * UNIT_S, memory_bytes=memory)


def run(
    arrivals: Sequence[float | tuple[float, int]],
    models: ServedModel | Sequence[ServedModel],
    scheduler: str,
    *,
    num_gpus: int = 1,
    delays: Sequence[float] = (0, 0, 0),
    memory: float = math.inf,
    autoscaler: Autoscaling | None = None,
    **parameters: Any,
) -> BatchResults:
    """`arrivals` are (unit, model), or units of model 0; `delays` of control, data and response in units."""
    pairs = [each if isinstance(each, tuple) else (each, 0) for each in arrivals]
    cluster = BatchCluster(
        (models,) if isinstance(models, ServedModel) else tuple(models),
        num_gpus,
        Delays(*(delay * UNIT_S for delay in delays)),
        memory,
    )
    arrival_s = np.array([at * UNIT_S for at, _ in pairs])
    workload = BatchWorkload("hand", arrival_s, np.array([m for _, m in pairs]))
    return simulate(cluster, workload, scheduler, parameters, autoscaler)


def batches(results: BatchResults) -> list[tuple[int, list[int], float, float]]:
    """GPU, requests, start and end (units) of each batch, in the order in which they ended."""
    return [
        (batch.gpu, [r.index for r in batch.requests], batch.start_s / UNIT_S, batch.end_s / UNIT_S)
        for batch in results.batches
    ]
