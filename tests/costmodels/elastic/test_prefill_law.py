import numpy as np
import pytest

from servegym.costmodels.elastic.prefill_law import PrefillLaw
from servegym.costmodels.errors import InputError

LAW = PrefillLaw(20e-3, 10e-6, 2e-10)


def some_batches(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(10, 20_000, rng.integers(1, 9)).tolist() for _ in range(count)]


def test_closed_form():
    assert LAW.seconds([1000, 3000]) == pytest.approx(20e-3 + 10e-6 * 4000 + 2e-10 * 10_000_000)
    np.testing.assert_allclose(
        LAW.batch_seconds([[1000, 3000], [7]]), [LAW.seconds([1000, 3000]), LAW.seconds([7])]
    )


def test_fit_recovers_exact_coefficients():
    batches = some_batches(50)
    found = PrefillLaw.fit(batches, LAW.batch_seconds(batches))
    assert found.constant_s == pytest.approx(LAW.constant_s)
    assert found.per_token_s == pytest.approx(LAW.per_token_s)
    assert found.per_token_squared_s == pytest.approx(LAW.per_token_squared_s)


def test_fit_recovers_coefficients_from_noisy_times():
    batches = some_batches(2000)
    noise = np.random.default_rng(1).normal(1, 0.05, len(batches))
    found = PrefillLaw.fit(batches, LAW.batch_seconds(batches) * noise)
    assert found.per_token_s == pytest.approx(LAW.per_token_s, rel=0.03)
    assert found.per_token_squared_s == pytest.approx(LAW.per_token_squared_s, rel=0.03)


@pytest.mark.parametrize("exponent", [0.0, 0.1, 0.5])
def test_fit_minimises_the_weighted_squares(exponent):
    """Normal equations: the residuals, weighted by (t^exponent / t)^2, are orthogonal to every column."""
    batches = some_batches(40)
    times = LAW.batch_seconds(batches) * np.random.default_rng(2).uniform(0.7, 1.4, len(batches))
    found = PrefillLaw.fit(batches, times, time_exponent=exponent)
    weighted = (found.batch_seconds(batches) - times) * (times**exponent / times) ** 2
    for column in (
        np.ones(len(batches)),
        np.array([sum(lengths) for lengths in batches], float),
        np.array([sum(length**2 for length in lengths) for lengths in batches], float),
    ):
        assert abs(weighted @ column) < 1e-9 * (np.abs(weighted) @ column)


def test_no_coefficient_gets_negative():
    """Where time falls with the square of the lengths the best law without a negative one has none."""
    batches = [[length] for length in range(1000, 20_000, 1000)]
    times = [20e-3 + 10e-6 * length - 1e-10 * length**2 for (length,) in batches]
    found = PrefillLaw.fit(batches, times)
    assert found.per_token_squared_s == 0
    assert found.per_token_s > 0


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
        PrefillLaw.fit(batches, times)
