import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.batch_workload import BatchWorkload


def test_columns_are_copied_and_converted() -> None:
    times = np.array([1, 2, 4])
    workload = BatchWorkload("w", times, np.array([0, 3, 1]))
    times[0] = 9
    assert workload.arrival_s.dtype == np.float64 and workload.arrival_s[0] == 1.0
    assert workload.model.dtype == np.int32
    assert (workload.num_requests, workload.duration_s, workload.rate_rps) == (3, 3.0, 2 / 3)


def test_scaling_the_rate_brings_the_same_requests_closer_together() -> None:
    workload = BatchWorkload("w", np.array([0.5, 1.0, 3.0]), np.array([0, 1, 0]))
    faster = workload.scale_rate(4.0)
    assert faster.rate_rps == 4 * workload.rate_rps
    np.testing.assert_array_equal(faster.arrival_s, [0.125, 0.25, 0.75])
    np.testing.assert_array_equal(faster.model, workload.model)
    with pytest.raises(InputError, match="rate factor is 0"):
        workload.scale_rate(0)


def test_an_empty_workload_has_no_rate() -> None:
    empty = BatchWorkload("w", np.zeros(0), np.zeros(0, np.int32))
    assert empty.num_requests == 0 and np.isnan(empty.rate_rps)


@pytest.mark.parametrize(
    "arrival_s, model, words",
    [
        ([1.0, 0.5], [0, 0], r"arrival_s\[1\] is 0.5, allowed: ascending"),
        ([-1.0], [0], r"arrival_s\[0\] is -1.0, allowed: finite, at least 0"),
        ([np.nan], [0], "arrival_s"),
        ([0.0, 1.0], [0], r"model has shape \(1,\), allowed: \(2,\)"),
        ([0.0], [-1], r"model\[0\] is -1"),
        ([0.0], [0.5], "model is of type float64, allowed: integers"),
    ],
)
def test_bad_columns_are_refused_by_name(arrival_s: list[float], model: list[float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        BatchWorkload("w", np.array(arrival_s), np.array(model))
