import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import compile_iteration_cost, linear_iteration_cost
from servegym.costmodels.sequence_parallel import SequenceParallelLatency, composed_prefill_seconds
from servegym.costmodels.specs import GPUS, MODELS

LAW = SequenceParallelLatency(20e-3, 10e-6, 2e-10)


def some_batches(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(10, 20_000, rng.integers(1, 9)).tolist() for _ in range(count)]


def test_closed_form():
    assert LAW.seconds([1000, 3000]) == pytest.approx(20e-3 + 10e-6 * 4000 + 2e-10 * 10_000_000)
    np.testing.assert_allclose(
        LAW.batch_seconds([[1000, 3000], [7]]), [LAW.seconds([1000, 3000]), LAW.seconds([7])]
    )
    assert LAW.decode_s == 22e-3


def test_fit_recovers_exact_coefficients():
    batches = some_batches(50)
    found = SequenceParallelLatency.fit(batches, LAW.batch_seconds(batches))
    assert found.constant_s == pytest.approx(LAW.constant_s)
    assert found.per_token_s == pytest.approx(LAW.per_token_s)
    assert found.per_token_squared_s == pytest.approx(LAW.per_token_squared_s)


def test_fit_recovers_coefficients_from_noisy_times():
    batches = some_batches(2000)
    noise = np.random.default_rng(1).normal(1, 0.05, len(batches))
    found = SequenceParallelLatency.fit(batches, LAW.batch_seconds(batches) * noise)
    assert found.per_token_s == pytest.approx(LAW.per_token_s, rel=0.03)
    assert found.per_token_squared_s == pytest.approx(LAW.per_token_squared_s, rel=0.03)


@pytest.mark.parametrize("exponent", [0.0, 0.1, 0.5])
def test_fit_minimises_the_weighted_squares(exponent):
    """Normal equations: the residuals, weighted by (t^exponent / t)^2, are orthogonal to every column."""
    batches = some_batches(40)
    times = LAW.batch_seconds(batches) * np.random.default_rng(2).uniform(0.7, 1.4, len(batches))
    found = SequenceParallelLatency.fit(batches, times, time_exponent=exponent)
    weighted = (found.batch_seconds(batches) - times) * (times**exponent / times) ** 2
    for column in (
        np.ones(len(batches)),
        np.array([sum(lengths) for lengths in batches], float),
        np.array([sum(length**2 for length in lengths) for lengths in batches], float),
    ):
        assert abs(weighted @ column) < 1e-9 * (np.abs(weighted) @ column)


def test_fit_from_the_composer():
    """A linear clock is a T_sp with C = half a pair: l (l + 1) / 2 pairs for every prompt of l tokens."""
    cost = linear_iteration_cost(
        max_num_batched_tokens=200_000,
        max_num_seqs=16,
        overhead_s=3e-3,
        per_token_s=8e-6,
        per_prefill_pair_s=4e-10,
    )
    batches = some_batches(30)
    found = SequenceParallelLatency.fit(batches, composed_prefill_seconds(cost, batches))
    assert found.constant_s == pytest.approx(3e-3, rel=1e-6)
    assert found.per_token_s == pytest.approx(8e-6 + 2e-10, rel=1e-6)
    assert found.per_token_squared_s == pytest.approx(2e-10, rel=1e-6)


def test_law_describes_a_compiled_model():
    """LoongServe reports errors under 10 % of its law; long prefills of Llama-2-7B by the roofline agree."""
    cost = compile_iteration_cost(
        MODELS["llama_2_7b"],
        GPUS["a100_sxm"],
        max_num_batched_tokens=65_536,
        max_num_seqs=8,
        max_kv_tokens=65_536,
    )
    batches = [[length] for length in (2048, 4096, 8192, 16_384, 32_768, 65_536)] + [[4096] * 8, [8192] * 4]
    times = composed_prefill_seconds(cost, batches)
    found = SequenceParallelLatency.fit(batches, times)
    assert np.abs(found.batch_seconds(batches) / times - 1).max() < 0.1


def test_composer_refuses_what_it_does_not_cover():
    cost = linear_iteration_cost(max_num_batched_tokens=100, max_num_seqs=2, overhead_s=1e-3)
    with pytest.raises(InputError, match="covers 2 requests and 100 tokens"):
        composed_prefill_seconds(cost, [[50, 51]])
    with pytest.raises(InputError, match="covers 2 requests and 100 tokens"):
        composed_prefill_seconds(cost, [[1, 1, 1]])


@pytest.mark.parametrize(
    "batches, times, words",
    [
        ([[1], [2]], [1, 2], "leave a coefficient open"),
        ([[5], [5], [5]], [1, 1, 1], "leave a coefficient open"),
        ([[1], [2], [3]], [1, 2], "3 prefills and times of shape"),
        ([[1], [2], [3]], [1, 2, 0], "above 0"),
        ([[1], [], [3]], [1, 2, 3], "one or more"),
        ([[1], [0], [3]], [1, 2, 3], "at least 1 token"),
    ],
)
def test_fit_refuses(batches, times, words):
    with pytest.raises(InputError, match=words):
        SequenceParallelLatency.fit(batches, times)
