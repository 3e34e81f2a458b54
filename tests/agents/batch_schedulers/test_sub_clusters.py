"""Sub-clusters: how models and GPUs are split, and that the parts know nothing of each other."""

import numpy as np
import pytest

from servegym.agents.batch_schedulers import make_batch_scheduler
from servegym.agents.batch_schedulers.sub_clusters import gpu_loads, simulate_sub_clusters, split
from servegym.costmodels.errors import InputError
from servegym.envs.sim.batch.cluster import BatchCluster
from servegym.envs.sim.batch.model import ServedModel
from servegym.envs.sim.batch.simulate import simulate_batches
from servegym.envs.workloads.batch_workload import BatchWorkload


def constant_model(seconds: float, slo_s: float = 100.0) -> ServedModel:
    """Batches of one, so that the load of a rate is the rate times these seconds."""
    return ServedModel("constant", (seconds,), slo_s)


def linear_cluster(num_models: int, num_gpus: int) -> BatchCluster:
    latency_s = tuple(1e-3 * size + 5e-3 for size in range(1, 17))
    return BatchCluster(tuple(ServedModel(f"m{n}", latency_s, 0.05) for n in range(num_models)), num_gpus)


def mixed_workload(num_models: int, count: int = 400) -> BatchWorkload:
    rng = np.random.default_rng(0)
    model = rng.integers(0, num_models, count).astype(np.int32)
    return BatchWorkload("mixed", np.cumsum(rng.exponential(1e-3, count)), model)


def test_load_is_what_batches_of_the_target_size_take() -> None:
    """With 40 requests a second 16 in a batch of 0.4 s would be in time, and keep a GPU busy all the time."""
    flat = ServedModel("flat", (0.4,) * 16, 100.0)
    cluster = BatchCluster((flat, constant_model(0.5)), 4)
    assert gpu_loads(cluster, [40.0, 3.0]) == pytest.approx([1.0, 1.5])
    assert gpu_loads(cluster, [0.0, 0.0]).tolist() == [0.0, 0.0]


def test_models_go_by_falling_load_to_the_least_loaded_part() -> None:
    """Loads 1, 5, 4, 3, 3: 5 | 4, then 3 to the second, 3 to the first, 1 to the second."""
    cluster = BatchCluster((constant_model(1.0),) * 5, 8)
    parts = split(cluster, [1, 5, 4, 3, 3], 2)
    assert [part.models.tolist() for part in parts] == [[1, 4], [0, 2, 3]]
    assert [part.cluster.num_gpus for part in parts] == [4, 4]
    assert [part.first_gpu for part in parts] == [0, 4]


@pytest.mark.parametrize(
    ("loads", "num_gpus", "shares"),
    [
        ([6, 3, 1], 10, [6, 3, 1]),
        ([5, 3, 3], 10, [4, 3, 3]),  # 4.55, 2.73, 2.73
        ([100, 1, 1], 10, [8, 1, 1]),
        ([0, 0, 0], 7, [3, 2, 2]),
    ],
)
def test_gpus_are_shared_out_by_largest_remainder(
    loads: list[float], num_gpus: int, shares: list[int]
) -> None:
    parts = split(BatchCluster((constant_model(1.0),) * 3, num_gpus), loads, 3)
    assert [part.cluster.num_gpus for part in parts] == shares


def test_models_nobody_asks_for_leave_no_part_empty() -> None:
    parts = split(linear_cluster(5, 5), [1.0, 0, 0, 0, 0], 4)
    assert sorted(model for part in parts for model in part.models) == [0, 1, 2, 3, 4]
    assert min(len(part.models) for part in parts) == 1


def test_one_part_is_the_whole() -> None:
    cluster, workload = linear_cluster(3, 4), mixed_workload(3)
    scheduler = make_batch_scheduler("symphony")
    whole = simulate_batches(cluster, workload, scheduler)
    one = simulate_sub_clusters(cluster, workload, scheduler, 1)
    for name in ("start_s", "end_s", "gpu", "batch_size", "outcome", "gpu_busy_s", "gpu_used_s"):
        np.testing.assert_array_equal(getattr(one, name), getattr(whole, name))
    assert (one.num_batches, one.duration_s) == (whole.num_batches, whole.duration_s)


def test_each_part_serves_its_own_requests_on_its_own_gpus() -> None:
    cluster, workload = linear_cluster(5, 4), mixed_workload(5)
    scheduler = make_batch_scheduler("symphony")
    results = simulate_sub_clusters(cluster, workload, scheduler, 2)
    parts = split(cluster, np.bincount(workload.model) / workload.duration_s, 2)
    for part in parts:
        own = np.isin(workload.model, part.models)
        numbers = np.searchsorted(part.models, workload.model[own])
        alone = simulate_batches(
            part.cluster, BatchWorkload("part", workload.arrival_s[own], numbers), scheduler
        )
        np.testing.assert_array_equal(results.end_s[own], alone.end_s)
        np.testing.assert_array_equal(results.outcome[own], alone.outcome)
        gpus = results.gpu[own & (results.gpu >= 0)]
        assert gpus.min() >= part.first_gpu
        assert gpus.max() < part.first_gpu + part.cluster.num_gpus
    assert results.utilisation == pytest.approx(results.gpu_busy_s.sum() / (4 * results.duration_s))


def test_parts_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="num_parts = 4: must be 1 to 3"):
        split(linear_cluster(3, 8), [1.0, 1.0, 1.0], 4)
    with pytest.raises(InputError, match="num_parts = 0: must be 1 to 2"):
        split(linear_cluster(3, 2), [1.0, 1.0, 1.0], 0)
    with pytest.raises(InputError, match="rates_rps: must be 3 finite numbers"):
        split(linear_cluster(3, 2), [1.0, -1.0, 1.0], 1)
