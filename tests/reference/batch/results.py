"""What comes out of a simulation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servegym.envs.workloads.batch_workload import BatchWorkload
from tests.reference.batch.fleet import Fleet
from tests.reference.batch.request import GOOD, Batch, Request


@dataclass
class BatchResults:
    """One entry per request in workload order, then the whole."""

    arrival_s: NDArray[np.float64]
    model: NDArray[np.int32]
    start_s: NDArray[np.float64]  # nan without a batch
    end_s: NDArray[np.float64]
    gpu: NDArray[np.int32]  # -1 without a batch
    batch_size: NDArray[np.int32]  # 0 without a batch
    outcome: NDArray[np.int8]
    energy_j: float
    num_batches: int
    num_preempted: int
    duration_s: float
    gpu_busy_s: NDArray[np.float64]
    gpu_used_s: NDArray[np.float64]
    batches: list[Batch]  # in the order in which they ended

    @property
    def bad_share(self) -> float:
        """Requests that are not good, of all."""
        return float(np.mean(self.outcome != GOOD))


def results_of(
    workload: BatchWorkload, fleet: Fleet, requests: Sequence[Request], duration_s: float
) -> BatchResults:
    """Read off what the simulation has left behind."""
    served = [request.batch for request in requests]
    for gpu in fleet.gpus:
        if gpu.in_use_since is not None:
            gpu.used_s += duration_s - gpu.in_use_since
    energy_j = 0.0
    for batch in fleet.batches:
        table = fleet.models[batch.model].energy_j
        energy_j += table[batch.size - 1] if table else 0.0
    busy_s = [
        sum(batch.end_s - batch.start_s for batch in fleet.batches if batch.gpu == gpu.number)
        for gpu in fleet.gpus
    ]
    return BatchResults(
        arrival_s=workload.arrival_s,
        model=workload.model,
        start_s=np.array([batch.start_s if batch else np.nan for batch in served]),
        end_s=np.array([batch.end_s if batch else np.nan for batch in served]),
        gpu=np.array([batch.gpu if batch else -1 for batch in served], np.int32),
        batch_size=np.array([batch.size if batch else 0 for batch in served], np.int32),
        outcome=np.array([request.outcome for request in requests], np.int8),
        energy_j=energy_j,
        num_batches=len(fleet.batches),
        num_preempted=fleet.num_preempted,
        duration_s=duration_s,
        gpu_busy_s=np.array(busy_s),
        gpu_used_s=np.array([gpu.used_s for gpu in fleet.gpus]),
        batches=fleet.batches,
    )
