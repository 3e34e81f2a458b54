"""Quality of predictions: worked examples."""

import pytest

from servegym.agents.length_predictor import quality


def test_a_worked_example():
    found = quality([10, 20, 40], [20, 10, 40])
    assert found.kendall_tau == pytest.approx(1 / 3)
    assert found.mae_tokens == pytest.approx(20 / 3)
    assert found.mean_relative_error == pytest.approx((1.0 + 0.5 + 0.0) / 3)


def test_a_constant_orders_nothing():
    assert quality([1, 2, 3], [2, 2, 2]).kendall_tau == 0
