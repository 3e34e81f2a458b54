"""From scores to lengths: monotone, and right where the map is known."""

import numpy as np

from servegym.agents.length_predictor.calibration import calibrate


def test_a_known_map_comes_back():
    rng = np.random.default_rng(0)
    scores = rng.uniform(-2, 2, 20_000)
    knots, values = calibrate(scores, 5 + np.tanh(scores) + rng.standard_t(2, 20_000) * 0.2)
    inside = np.linspace(-1.8, 1.8, 50)
    np.testing.assert_allclose(np.interp(inside, knots, values), 5 + np.tanh(inside), atol=0.06)


def test_the_map_ascends_whatever_it_is_fitted_to():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=500)
    for lengths in (rng.normal(size=500), -scores):
        knots, values = calibrate(scores, lengths)
        assert (np.diff(knots) > 0).all() and (np.diff(values) > 0).all()
    assert len(values) == 1  # against the order there is nothing but the median
    assert abs(values[0]) < 0.2


def test_only_the_order_of_scores_decides_the_values():
    rng = np.random.default_rng(2)
    scores = rng.normal(size=700)
    lengths = scores + rng.normal(size=700)
    assert calibrate(scores, lengths)[1].tolist() == calibrate(np.exp(scores), lengths)[1].tolist()


def test_few_requests_are_one_bin():
    knots, values = calibrate(np.array([0.0, 1.0, 2.0]), np.array([1.0, 5.0, 2.0]))
    assert knots.tolist() == [1.0] and values.tolist() == [2.0]
