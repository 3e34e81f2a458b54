"""What is said of a run of batch serving, and of each of its requests."""

import math

import numpy as np

from servegym.envs.metrics import percentile
from servegym.envs.sim.batch.cluster import BatchCluster
from servegym.envs.sim.batch.simulate import BatchResults
from servegym.envs.sim.batch.state import GOOD, OUTCOMES


def batch_latency_s(results: BatchResults, cluster: BatchCluster) -> np.ndarray:
    """float64 (N,): from a request's arrival to its answer; nan where it was not answered."""
    return np.asarray(results.end_s + cluster.delays.response_s - results.arrival_s)


def summarise_batches(results: BatchResults, cluster: BatchCluster) -> dict[str, float]:
    """Counts of requests by outcome, shares and rates as `BatchResults` has them, latencies of the answered.

    worst_bad_share: of the model with the largest. mean_batch: requests in a batch, of those that ended.
    gpu_s: seconds that GPUs were in use. Latencies are nan where nothing was answered.
    """
    counts = np.bincount(results.outcome, minlength=len(OUTCOMES))
    answered = np.sort(batch_latency_s(results, cluster)[results.batch_size > 0])
    by_model = bad_share_by_model(results, cluster)
    return {
        "num_requests": float(len(results.outcome)),
        **{f"num_{name}": float(count) for name, count in zip(OUTCOMES, counts, strict=True)},
        "bad_share": results.bad_share,
        "worst_bad_share": max((share for share in by_model.values() if not math.isnan(share)), default=0.0),
        "good_rps": results.good_rps,
        "mean_latency_s": float(answered.mean()) if len(answered) else math.nan,
        "p99_latency_s": percentile(answered, 99),
        "mean_batch": len(answered) / results.num_batches if results.num_batches else 0.0,
        "num_batches": float(results.num_batches),
        "num_preempted": float(results.num_preempted),
        "utilisation": results.utilisation,
        "gpu_s": float(results.gpu_used_s.sum()),
        "energy_j": results.energy_j,
        "duration_s": results.duration_s,
    }


def bad_share_by_model(results: BatchResults, cluster: BatchCluster) -> dict[str, float]:
    """Of each model the share of its requests that are not good; nan where none came."""
    asked = np.bincount(results.model, minlength=len(cluster.models))
    bad = np.bincount(results.model[results.outcome != GOOD], minlength=len(cluster.models))
    return {
        model.name: float(number / count) if count else math.nan
        for model, number, count in zip(cluster.models, bad, asked, strict=True)
    }
