import numpy as np
import pytest
from scipy import stats

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.jit import jit
from servegym.envs.workloads import PREDICTORS, noisy_predictions, refined_remaining
from servegym.envs.workloads.predictors import (
    TRAIL_IMPROVEMENT,
    bucketed_predictions,
    exact_predictions,
    ranked_predictions,
)

PARAMETERS = {
    "exact": {},
    "noisy": {"mean_relative_error": 0.4},
    "bucketed": {"edges": [0, 256, 2048, 4096], "accuracy": 0.8},
    "ranked": {"kendall_tau": 0.6},
}


def lengths(num_requests=3000, seed=0):
    return np.random.default_rng(seed).geometric(1 / 200, num_requests).astype(np.int32)


@pytest.mark.parametrize("name", PREDICTORS)
def test_predictors_are_called_alike_and_their_seed_decides(name):
    truth = lengths()
    kept = truth.copy()
    first, again = (
        PREDICTORS[name](truth, rng=np.random.default_rng(0), **PARAMETERS[name]) for _ in range(2)
    )
    assert first.dtype == np.int32 and first.shape == truth.shape and first.min() >= 1
    assert first.tolist() == again.tolist()
    first[:] = 0
    assert truth.tolist() == kept.tolist()
    if name != "exact":
        other = PREDICTORS[name](truth, rng=np.random.default_rng(1), **PARAMETERS[name])
        assert other.tolist() != again.tolist()


def test_exact_is_the_truth():
    assert exact_predictions(lengths(), np.random.default_rng(0)).tolist() == lengths().tolist()


@pytest.mark.parametrize("error", [0.1, 0.5, 1.0])
def test_predictions_have_the_stated_mean_relative_error_and_no_bias(error):
    outputs = np.full(400_000, 10_000, dtype=np.int32)  # so long that rounding does not matter
    predicted = noisy_predictions(outputs, error, np.random.default_rng(0))
    relative = predicted / outputs - 1
    assert np.abs(relative).mean() == pytest.approx(error, rel=0.02)
    assert abs(relative.mean()) < 5 * relative.std() / np.sqrt(400_000)


def test_predictions_are_exact_at_zero_error_seeded_and_at_least_one_token():
    outputs = np.arange(1, 2_000, dtype=np.int32)
    assert noisy_predictions(outputs, 0.0, np.random.default_rng(0)).tolist() == outputs.tolist()
    first, again, other = (noisy_predictions(outputs, 1.5, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()
    assert first.min() == 1


@pytest.mark.parametrize("error", [-0.1, 2.0, np.nan])
def test_impossible_prediction_errors_are_refused(error):
    with pytest.raises(InputError, match="at least 0 and below 2"):
        noisy_predictions(np.array([1], dtype=np.int32), error, np.random.default_rng(0))


def test_buckets_are_right_closed_and_named_by_their_middle():
    truth = np.array([1, 10, 11, 20, 21, 999], np.int32)
    predicted = bucketed_predictions(truth, np.random.default_rng(0), edges=[0, 10, 20, 60])
    assert predicted.tolist() == [5, 5, 15, 15, 40, 40]
    assert bucketed_predictions(truth, np.random.default_rng(0), edges=[0, 1e-3]).tolist() == [1] * 6


@pytest.mark.parametrize("accuracy", [0.0, 0.7, 1.0])
def test_wrong_buckets_are_as_frequent_as_stated_and_lie_beside(accuracy):
    truth = np.repeat([5, 15, 25], 20_000).astype(np.int32)
    predicted = bucketed_predictions(
        truth, np.random.default_rng(0), edges=[0, 10, 20, 30], accuracy=accuracy
    )
    wrong = predicted != truth
    assert abs(wrong.mean() - (1 - accuracy)) <= 4 * np.sqrt(accuracy * (1 - accuracy) / 60_000)
    assert set(np.abs(predicted - truth)[wrong].tolist()) <= {10}
    middle = predicted[(truth == 15) & wrong]
    if len(middle):
        assert abs((middle == 5).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(middle))


@pytest.mark.parametrize("tau", [0.0, 0.3, 0.62, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("mean", [2, 500])  # every third pair is tied, hardly any is
def test_ranked_predictions_have_the_stated_tau_b(tau, mean):
    for seed in range(3):
        truth = np.random.default_rng(seed).geometric(1 / mean, 2000).astype(np.int32)
        predicted = ranked_predictions(truth, tau, np.random.default_rng(seed + 10))
        assert stats.kendalltau(truth, predicted).statistic == pytest.approx(tau, abs=0.02)
        assert sorted(predicted.tolist()) == sorted(truth.tolist())


@pytest.mark.parametrize("truth", [[], [7], [7, 7, 7], [3, 9]])
def test_ranks_of_next_to_nothing(truth):
    truth = np.array(truth, np.int32)
    predicted = ranked_predictions(truth, 0.5, np.random.default_rng(0))
    assert sorted(predicted.tolist()) == sorted(truth.tolist())


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda o, r: bucketed_predictions(o, r, edges=[5]), "bucket edges are .5., allowed: at least two"),
        (lambda o, r: bucketed_predictions(o, r, edges=[0, 5, 5]), "ascending"),
        (lambda o, r: bucketed_predictions(o, r, edges=[-1, 5]), "ascending from 0"),
        (lambda o, r: bucketed_predictions(o, r, edges=[0, np.nan]), "ascending"),
        (lambda o, r: bucketed_predictions(o, r, edges=[0, np.inf]), "last bucket edge is inf"),
        (lambda o, r: bucketed_predictions(o, r, accuracy=1.1), "accuracy is 1.1, allowed: from 0 to 1"),
        (lambda o, r: ranked_predictions(o, -0.1, r), "Kendall's tau is -0.1, allowed: from 0 to 1"),
        (lambda o, r: ranked_predictions(o, np.nan, r), "Kendall's tau is nan"),
    ],
)
def test_impossible_qualities_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(lengths(10), np.random.default_rng(0))


def test_refined_starts_at_the_first_prediction_and_improves_to_the_end():
    truth = lengths(20_000) + 50
    predicted = noisy_predictions(truth, 0.3, np.random.default_rng(0))
    assert refined_remaining(truth, 0, predicted, 0.5).tolist() == predicted.tolist()
    errors = []
    for share in (0.0, 0.1, 0.3, 0.6, 0.9):
        generated = np.floor(share * truth)
        remaining = refined_remaining(truth, generated, predicted, TRAIL_IMPROVEMENT)
        assert remaining.min() >= 1
        errors.append(np.abs(remaining - (truth - generated)).mean())
    assert (np.diff(errors) < 0).all()


@pytest.mark.parametrize("improvement", [0.3, TRAIL_IMPROVEMENT, 1.0])
def test_refined_improves_by_the_stated_mean_over_a_request(improvement):
    # Predictions that are too long are never clipped, so the closed form holds as it stands.
    generated = np.arange(4000)
    remaining = refined_remaining(4000, generated, 5000, improvement)
    assert (remaining - (4000 - generated)).mean() == pytest.approx(1000 * improvement, rel=1e-3)


def test_refined_of_an_exact_prediction_is_the_truth():
    generated = np.arange(100)
    assert refined_remaining(100, generated, 100, 0.7).tolist() == (100 - generated).tolist()


def test_refined_compiles():
    compiled = jit(refined_remaining)
    for generated in (0, 3, 99):
        assert compiled(100, generated, 60, 0.7) == pytest.approx(
            refined_remaining(100, generated, 60, 0.7), rel=1e-14
        )
