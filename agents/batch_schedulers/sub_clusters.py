"""Sub-clusters: models and GPUs split into parts that know nothing of each other.

As Symphony does where one scheduler would not be fast enough for all requests [Chen et al., arXiv 2308.07470
v1]; the rule by which they are split is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.jit import jit
from servegym.envs.sim.batch.cluster import BatchCluster
from servegym.envs.sim.batch.scheduler import BatchScheduler
from servegym.envs.sim.batch.setup import Simulation
from servegym.envs.sim.batch.simulate import BatchResults, simulate_batches
from servegym.envs.sim.batch.staggered import target_batch
from servegym.envs.sim.batch.state import ClusterState
from servegym.envs.workloads.batch_workload import BatchWorkload

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SubCluster:
    """A part of a cluster; `models`, `first_gpu`: the numbers of its own in the whole."""

    cluster: BatchCluster
    models: npt.NDArray[np.int64]
    first_gpu: int


def split(cluster: BatchCluster, rates_rps: npt.ArrayLike, num_parts: int) -> tuple[SubCluster, ...]:
    """Parts of about equal load at these rates, requests/s (M,) of each model.

    Models go, in order of falling load, to the part with the least load so far; GPUs in proportion to the
    load, by largest remainder, at least one to each. InputError for more parts than models or GPUs.
    """
    most = min(len(cluster.models), cluster.num_gpus)
    if not 1 <= num_parts <= most:
        raise InputError(f"num_parts = {num_parts}: must be 1 to {most}, by the numbers of models and GPUs")
    loads = gpu_loads(cluster, rates_rps)
    members: list[list[int]] = [[] for _ in range(num_parts)]
    of_part = np.zeros(num_parts)
    for model in np.argsort(-loads, kind="stable"):
        part = min(range(num_parts), key=lambda each: (of_part[each], len(members[each])))
        members[part].append(int(model))
        of_part[part] += loads[model]
    gpus = _shared_out(cluster.num_gpus, of_part)
    first = np.cumsum(gpus) - gpus
    return tuple(
        SubCluster(
            replace(cluster, models=tuple(cluster.models[model] for model in models), num_gpus=int(count)),
            np.array(models),
            int(start),
        )
        for models, count, start in zip(map(sorted, members), gpus, first, strict=True)
    )


def gpu_loads(cluster: BatchCluster, rates_rps: npt.ArrayLike) -> Floats:
    """(M,) GPUs that each model keeps busy in batches of its target size, `r l(b*) / b*`."""
    rates = np.array(rates_rps, np.float64)
    if rates.shape != (len(cluster.models),) or not (rates >= 0).all() or not np.isfinite(rates).all():
        raise InputError(f"rates_rps: must be {len(cluster.models)} finite numbers of at least 0")
    loads = np.zeros(len(rates))
    simulation = Simulation(cluster, BatchScheduler("none", lambda state, event, subject: None), 1)
    _write_loads(simulation.state, rates, loads)
    return loads


@jit
def _write_loads(state: ClusterState, rates_rps: Floats, loads: Floats) -> None:
    for model in range(state.num_models):
        size = target_batch(state, model, rates_rps[model])
        loads[model] = rates_rps[model] * state.latency_s[model, size] / size


def _shared_out(num_gpus: int, loads: Floats) -> npt.NDArray[np.int64]:
    quotas = num_gpus * (loads / loads.sum() if loads.any() else np.full(len(loads), 1 / len(loads)))
    counts = np.ones(len(loads), np.int64)
    for _ in range(num_gpus - len(loads)):
        counts[np.argmax(quotas - counts)] += 1
    return counts


def simulate_sub_clusters(
    cluster: BatchCluster, workload: BatchWorkload, scheduler: BatchScheduler, num_parts: int
) -> BatchResults:
    """As `simulate_batches`, split by the rates of the whole workload, each part with its own scheduler.

    InputError as `split`.
    """
    counts = np.bincount(workload.model, minlength=len(cluster.models))
    parts = split(cluster, counts / max(workload.duration_s, 1e-9), num_parts)
    return _merged(workload, [(part, *_simulate(part, workload, scheduler)) for part in parts])


def _simulate(
    part: SubCluster, workload: BatchWorkload, scheduler: BatchScheduler
) -> tuple[npt.NDArray[np.int64], BatchResults]:
    """The numbers of the part's requests in the workload, and what became of them."""
    own = np.flatnonzero(np.isin(workload.model, part.models))
    number = np.searchsorted(part.models, workload.model[own]).astype(np.int32)
    requests = BatchWorkload(workload.name, workload.arrival_s[own], number)
    return own, simulate_batches(part.cluster, requests, scheduler)


def _merged(
    workload: BatchWorkload,
    found: Sequence[tuple[SubCluster, npt.NDArray[np.int64], BatchResults]],
) -> BatchResults:
    num_requests = workload.num_requests
    columns = {
        name: np.zeros(num_requests, getattr(found[0][2], name).dtype)
        for name in ("start_s", "end_s", "gpu", "batch_size", "outcome")
    }
    for part, own, results in found:
        for name, column in columns.items():
            column[own] = getattr(results, name)
        columns["gpu"][own[results.gpu >= 0]] += part.first_gpu
    of_parts = [results for _, _, results in found]
    duration_s = max(results.duration_s for results in of_parts)
    busy_s = np.concatenate([results.gpu_busy_s for results in of_parts])
    return BatchResults(
        arrival_s=workload.arrival_s,
        model=workload.model,
        **columns,
        duration_s=duration_s,
        energy_j=sum(results.energy_j for results in of_parts),
        num_batches=sum(results.num_batches for results in of_parts),
        num_preempted=sum(results.num_preempted for results in of_parts),
        gpu_busy_s=busy_s,
        gpu_used_s=np.full(len(busy_s), duration_s),
    )
