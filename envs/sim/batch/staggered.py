"""The law of staggered batches: how large they should be, and what it promises."""

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.batch.model import ServedModel
from servegym.envs.sim.batch.state import ClusterState


@kernel
def target_batch(state: ClusterState, model: int, rate_rps: float) -> int:
    """The largest batch that GPUs which start in turns can run in time at this rate; at least 1."""
    latency_s = state.latency_s[model]
    budget_s = state.slo_s[model] - state.control_s - state.response_s
    best = 0
    gpus = 0.0
    for size in range(1, state.max_batch[model] + 1):
        needed = rate_rps * latency_s[size] / size
        if latency_s[size] * (1 + 1 / max(needed, 1.0)) <= budget_s - state.data_s * size:
            best = size
            gpus = needed
    if best > 0 and gpus > 1:
        return best
    best = 1
    if rate_rps > 0:
        for size in range(1, state.max_batch[model] + 1):
            if latency_s[size] + size / rate_rps + state.data_s * size <= budget_s:
                best = size
    return best


@kernel
def first_target_batch(state: ClusterState, model: int) -> int:
    """What a scheduler aims at before it knows a rate: the largest batch that takes half of the objective."""
    best = 1
    for size in range(1, state.max_batch[model] + 1):
        if state.latency_s[model, size] <= state.slo_s[model] / 2:
            best = size
    return best


def analytic_goodput(model: ServedModel, num_gpus: int, staggered: bool = True) -> tuple[float, int]:
    """Requests/s of one model on GPUs without delays, and the batch size.

    staggered: GPUs start in turns, `l(b) (1 + 1/N) <= slo`; else a request may just have missed a batch of
    its GPU, `2 l(b) <= slo` [Symphony's batch_size_estimator.cpp]. InputError where no batch is in time.
    """
    if num_gpus < 1:
        raise InputError(f"num_gpus = {num_gpus}: must be at least 1")
    latency_s = np.array(model.latency_s)
    wait = 1 / num_gpus if staggered else 1.0
    in_time = np.flatnonzero(latency_s * (1 + wait) <= model.slo_s)
    if in_time.size == 0:
        raise InputError(f"model {model.name}: slo_s = {model.slo_s}: no batch is in time on {num_gpus} GPUs")
    size = int(in_time[-1]) + 1
    return num_gpus * size / model.latency_s[size - 1], size


RATE_BUCKET_S = 0.05
RATE_BUCKETS = 100
"""A scheduler counts arrivals in so many buckets, 5 s [Symphony's defaults]."""
