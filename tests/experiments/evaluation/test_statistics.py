"""Interquartile means by hand, intervals with the coverage they claim, comparisons that are symmetric."""

import numpy as np
import pytest
from scipy import stats

from servegym.experiments.evaluation.statistics import (
    Estimate,
    estimate,
    interquartile_mean,
    relative_change,
    verdict,
)


@pytest.mark.parametrize(
    ("values", "by_hand"),
    [
        ([100.0, 2.0, 3.0, -50.0], (2 + 3) / 2),
        ([1.0, 2.0, 4.0, 8.0, 16.0], (0.75 * 2 + 4 + 0.75 * 8) / 2.5),
        (list(range(10)), 4.5),
        ([0, 0, 1, 1, 1, 1, 1, 9, 9, 9], (0.5 * 1 + 1 + 1 + 1 + 1 + 0.5 * 9) / 5),
        ([7.0], 7.0),
    ],
)
def test_interquartile_mean_by_hand(values: list[float], by_hand: float) -> None:
    assert interquartile_mean(np.array(values, float)) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("num_values", [4, 8, 20])
def test_interquartile_mean_is_scipys_where_quarters_are_whole(num_values: int) -> None:
    values = np.random.default_rng(0).lognormal(size=(3, num_values))
    expected = stats.trim_mean(values, 0.25, axis=1)
    np.testing.assert_allclose(interquartile_mean(values), expected, rtol=1e-12)


def test_interval_agrees_with_scipys_bootstrap() -> None:
    values = np.random.default_rng(1).lognormal(size=20)
    scipys = stats.bootstrap(
        (values,),
        lambda sample, axis: stats.trim_mean(sample, 0.25, axis=axis),
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    found = estimate(values)
    width = scipys.high - scipys.low
    assert found.low == pytest.approx(scipys.low, abs=0.05 * width)
    assert found.high == pytest.approx(scipys.high, abs=0.05 * width)


def test_interval_covers_the_mean_of_a_normal_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    num_samples, covered = 300, 0
    for _ in range(num_samples):
        found = estimate(rng.normal(5.0, 2.0, size=20))
        covered += found.low <= 5.0 <= found.high
    # Three standard errors of a share of 0.95 among 300 are 0.038.
    assert 0.912 <= covered / num_samples <= 0.988


def test_change_of_a_policy_against_itself_is_exactly_none() -> None:
    values = np.random.default_rng(4).lognormal(size=10)
    change = relative_change(values, values)
    assert change == Estimate(0.0, 0.0, 0.0)
    assert verdict(change) == "undecided"


def test_change_is_paired() -> None:
    """A tenth less at every seed is found whatever the spread between seeds."""
    against = np.random.default_rng(5).lognormal(sigma=3.0, size=10)
    assert relative_change(0.9 * against, against) == pytest.approx((-0.1, -0.1, -0.1))


def test_change_turns_round_when_policies_are_exchanged() -> None:
    rng = np.random.default_rng(6)
    first, second = rng.lognormal(size=10), rng.lognormal(0.2, size=10)
    there, back = relative_change(first, second), relative_change(second, first)
    np.testing.assert_allclose(1 + np.array(there), 1 / (1 + np.array([back.iqm, back.high, back.low])))


def test_change_from_zero_is_not_a_number_and_undecided() -> None:
    change = relative_change(np.ones(5), np.array([0.0, 1, 1, 1, 1]))
    assert np.isnan(change).all()
    assert verdict(change) == "undecided"


@pytest.mark.parametrize(
    ("interval", "expected"),
    [((-0.2, -0.1), "better"), ((0.1, 0.2), "worse"), ((-0.1, 0.2), "undecided"), ((-0.1, 0.0), "undecided")],
)
def test_verdict(interval: tuple[float, float], expected: str) -> None:
    assert verdict(Estimate(sum(interval) / 2, *interval)) == expected
