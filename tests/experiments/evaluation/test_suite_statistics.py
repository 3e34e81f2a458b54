"""Statistics of suites, against rliable's own numbers and against SciPy."""

import numpy as np
import pytest
import scipy.stats

from servegym.experiments.evaluation.statistics import (
    Values,
    estimate,
    performance_profile,
    probability_of_improvement,
    relative_change,
    suite_change,
    suite_estimate,
)

# Printed by rliable 1.2.0 (Agarwal et al., 2021), NumPy 2.4.6, in an environment of its own:
#   pip install rliable==1.2.0 'pandas<3'
#   python -c "import numpy as np; from rliable import library as r, metrics as m
#   g = np.random.default_rng(7); x = g.integers(700, 1300, size=(12, 8)) / 1000
#   y = g.integers(750, 1350, size=(6, 8)) / 1000; x[0] = y[0]; np.random.seed(0)
#   print(r.get_interval_estimates({'x': x, 'y': y}, lambda s: np.array([m.aggregate_iqm(s)]), reps=50000))
#   print(r.get_interval_estimates({'y': (y, x)}, lambda *p: np.array([m.probability_of_improvement(*p)]),
#   reps=20000)); print(r.score_distributions(x, np.array([0.8, 0.9, 1.0, 1.1, 1.3])))"
# There more is better and runs come first: their probability that y is above x is ours that x is better.
IQM_X, IQM_Y = 1.02566667, 1.03925
INTERVAL_X, INTERVAL_Y = (0.97775, 1.07279219), (0.98908333, 1.08329167)
IMPROVEMENT, INTERVAL_IMPROVEMENT = 0.50607639, (0.40711806, 0.60243056)
LEVELS, SHARES_ABOVE = (0.8, 0.9, 1.0, 1.1, 1.3), (0.84375, 0.7083333333, 0.5416666667, 0.375, 0.0)


@pytest.fixture
def two() -> tuple[Values, Values]:
    """The matrices above: scores (8, 1, 12) and (8, 1, 6)."""
    rng = np.random.default_rng(7)
    x, y = rng.integers(700, 1300, size=(12, 8)) / 1000, rng.integers(750, 1350, size=(6, 8)) / 1000
    x[0] = y[0]
    return x.T[:, None, :], y.T[:, None, :]


def test_iqm_and_stratified_bootstrap_are_those_of_rliable(two: tuple[Values, Values]) -> None:
    for scores, iqm, interval in zip(two, (IQM_X, IQM_Y), (INTERVAL_X, INTERVAL_Y), strict=True):
        found = suite_estimate(scores)
        assert found.iqm == pytest.approx(iqm, abs=1e-8)
        assert found[1:] == pytest.approx(interval, abs=0.003)  # another stream of resamples


def test_probability_of_improvement_is_that_of_rliable(two: tuple[Values, Values]) -> None:
    found = probability_of_improvement(*two)
    assert found.share == pytest.approx(IMPROVEMENT, abs=1e-8)
    assert found[1:] == pytest.approx(INTERVAL_IMPROVEMENT, abs=0.005)


def test_profiles_are_those_of_rliable(two: tuple[Values, Values]) -> None:
    profile = performance_profile(two[0], np.array(LEVELS))
    np.testing.assert_allclose(profile, 1 - np.array(SHARES_ABOVE), atol=1e-9)


def test_probability_of_improvement_is_mann_whitneys(two: tuple[Values, Values]) -> None:
    """Ties count half; and what one gains the other loses."""
    x, y = np.round(two[0], 1), np.round(two[1], 1)
    due = [
        scipy.stats.mannwhitneyu(b.ravel(), a.ravel()).statistic / (a.size * b.size)
        for a, b in zip(x, y, strict=True)
    ]
    assert probability_of_improvement(x, y).share == pytest.approx(np.mean(due))
    assert probability_of_improvement(y, x).share == pytest.approx(1 - np.mean(due))
    assert probability_of_improvement(x, x).share == 0.5


def test_iqm_is_scipys_trimmed_mean() -> None:
    scores = np.random.default_rng(0).random((3, 2, 8))
    assert suite_estimate(scores).iqm == pytest.approx(scipy.stats.trim_mean(scores.ravel(), 0.25))


def test_scenarios_are_strata() -> None:
    """What differs between scenarios alone leaves nothing to chance; one scenario is a plain bootstrap."""
    levels = np.repeat(np.array([0.8, 1.0, 1.3, 1.9])[:, None, None], 10, axis=2)
    assert suite_estimate(levels) == pytest.approx((1.15, 1.15, 1.15))
    values = np.random.default_rng(1).gamma(20, 0.05, 10)
    assert suite_estimate(values[None, None]) == pytest.approx(estimate(values), abs=0.01)


def test_training_runs_are_drawn_whole() -> None:
    """Agents that differ between training seeds are not made certain by more test seeds."""
    of_run = np.array([0.7, 0.8, 0.9, 1.0, 1.1])
    few, many = (
        suite_estimate(np.broadcast_to(of_run[None, :, None], (6, 5, seeds)).copy()) for seeds in (2, 40)
    )
    assert few == pytest.approx(many, abs=0.02)
    assert many.high - many.low > 0.2


def test_change_is_paired() -> None:
    """Two policies that differ by 3 % on every request are told apart, however much seeds differ."""
    values = np.random.default_rng(2).gamma(3, 1.0, (4, 1, 10))
    assert suite_change(0.97 * values, values) == pytest.approx((-0.03, -0.03, -0.03))
    assert suite_estimate(0.97 * values).high > suite_estimate(values).low
    single = values[0, 0]
    noisy = single * np.random.default_rng(3).uniform(0.9, 1.2, 10)
    assert suite_change(noisy[None, None], single[None, None]) == pytest.approx(
        relative_change(noisy, single), abs=0.01
    )
    assert np.isnan(suite_change(0 * values, values).iqm)
