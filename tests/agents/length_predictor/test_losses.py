"""Losses against closed forms and plain loops."""

import itertools
import math

import numpy as np
import pytest
import torch

from servegym.agents.length_predictor.losses import LOSSES, listmle


def logs(*lengths):
    return torch.tensor([lengths], dtype=torch.float32).log()


@pytest.mark.parametrize("name, expected", [("l1", 1.0), ("mse", 1.5)])
def test_regression_losses(name, expected):
    scores = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert float(LOSSES[name](scores, torch.tensor([[1.0, 3.0], [2.0, 6.0]]))) == pytest.approx(expected)


def test_listmle_is_minus_the_log_likelihood_of_the_order_shortest_first():
    scores, lengths = [0.3, -1.2, 2.0], (500.0, 20.0, 90.0)
    left, likelihood = [1, 2, 0], 1.0  # by length
    while left:
        weights = [math.exp(-scores[i]) for i in left]
        likelihood *= weights[0] / sum(weights)
        left = left[1:]
    loss = float(listmle(torch.tensor([scores]), logs(*lengths)))
    assert loss == pytest.approx(-math.log(likelihood) / 3, rel=1e-5)


def test_the_likelihoods_of_all_orders_add_up_to_one():
    scores = torch.tensor([[0.5, -0.7, 1.1, 0.0]])
    orders = itertools.permutations((50.0, 100.0, 150.0, 200.0))
    total = sum(math.exp(-4 * float(listmle(scores, logs(*order)))) for order in orders)
    assert total == pytest.approx(1, rel=1e-5)


def test_lengths_of_one_bucket_of_ten_tokens_keep_the_order_of_the_list():
    scores = torch.tensor([[1.0, -1.0]])
    assert float(listmle(scores, logs(38.0, 32.0))) == float(listmle(scores, logs(32.0, 38.0)))
    assert float(listmle(scores, logs(48.0, 32.0))) < float(listmle(scores, logs(32.0, 48.0)))


def test_exponential_lengths_are_scored_by_the_log_of_their_mean():
    """Where the model is exact, the likelihood is greatest at the true scores: no slope there."""
    rng = np.random.default_rng(0)
    means = rng.uniform(6, 9, (4000, 8))
    lengths = torch.tensor(rng.exponential(np.exp(means)), dtype=torch.float64)
    slope = {}
    for scale in (0.8, 1.0, 1.2):
        factor = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
        listmle(factor * torch.tensor(means), lengths.log()).backward()
        slope[scale] = float(factor.grad)
    assert slope[0.8] < -3 * abs(slope[1.0]) and slope[1.2] > 3 * abs(slope[1.0])
