"""Predictors trained on made-up requests whose lengths are a known function of features, and noise."""

import functools

import numpy as np
import pytest
import torch

from servegym.agents.length_predictor import quality, train_predictor
from servegym.agents.length_predictor.training import build_network
from servegym.costmodels.errors import InputError
from servegym.envs.workloads import LearnedPredictor, Workload
from servegym.envs.workloads.length_features import FEATURES, GROUPS, length_features


def log_normal(rng, num_requests):
    return 0.5 * rng.standard_normal(num_requests)


def heavy_tailed(rng, num_requests):
    """Student's t with 1.2 degrees of freedom: no variance, hardly a mean."""
    return np.clip(0.4 * rng.standard_t(1.2, num_requests), -12, 12)


def made_up(seed, noise=log_normal, num_requests=4000):
    """(requests, median length of each given prompt and priority): not monotone in the prompt."""
    rng = np.random.default_rng(seed)
    prompts = np.exp(rng.uniform(3, 8, num_requests)).astype(int)
    priority = rng.integers(0, 3, num_requests)
    expected = 5.5 + 0.8 * np.sin(1.5 * np.log(prompts)) + 0.5 * (priority - 1)
    lengths = np.clip(np.rint(np.exp(expected + noise(rng, num_requests))), 1, 10**6).astype(int)
    arrivals = np.cumsum(rng.exponential(1.0, num_requests))
    return Workload("made up", arrivals, prompts, lengths, priority=priority), np.exp(expected)


@functools.cache
def trained(loss, *groups):
    """On 4,000 requests with log-normal noise; no groups: all."""
    return train_predictor(made_up(0)[0], loss, 0, groups=groups or tuple(GROUPS))


@pytest.mark.parametrize("loss", ["l1", "mse", "listmle"])
def test_a_predictor_comes_close_to_what_is_possible(loss):
    test, medians = made_up(1)
    found = quality(test.output_tokens, trained(loss).predict(test))
    possible = quality(test.output_tokens, medians)
    assert possible.kendall_tau > 0.5
    assert found.kendall_tau > possible.kendall_tau - 0.02
    assert found.mae_tokens < 1.04 * possible.mae_tokens
    assert found.mean_relative_error < 1.08 * possible.mean_relative_error


def test_an_order_is_learned_better_than_a_mean_where_noise_has_heavy_tails():
    training, _ = made_up(0, heavy_tailed)
    test, medians = made_up(1, heavy_tailed)
    tau = {
        loss: quality(test.output_tokens, train_predictor(training, loss, seed=0).predict(test)).kendall_tau
        for loss in ("mse", "listmle")
    }
    assert tau["listmle"] > tau["mse"]
    assert tau["listmle"] > quality(test.output_tokens, medians).kendall_tau - 0.03


def test_the_prompt_alone_says_less_and_noise_alone_nothing():
    test, _ = made_up(1)
    both = quality(test.output_tokens, trained("l1").predict(test))
    prompt = quality(test.output_tokens, trained("l1", "prompt").predict(test))
    gaps = quality(test.output_tokens, trained("l1", "arrival").predict(test))
    assert both.kendall_tau > prompt.kendall_tau + 0.05 > gaps.kendall_tau + 0.1
    assert abs(gaps.kendall_tau) < 0.05


def test_a_workload_without_a_feature_of_training_is_predicted_from_the_rest():
    test, _ = made_up(1)
    bare = Workload("bare", test.arrival_s, test.prompt_tokens, test.output_tokens)
    prompt = quality(test.output_tokens, trained("l1", "prompt").predict(test))
    masked = quality(test.output_tokens, trained("l1").predict(bare))
    assert masked.kendall_tau > prompt.kendall_tau - 0.03


def test_equal_seeds_give_equal_predictors_and_leave_torch_alone():
    training, _ = made_up(0, num_requests=400)
    before = torch.random.get_rng_state()
    first, again, other = (train_predictor(training, "listmle", seed, epochs=3) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    features = length_features(training)
    assert first.scores(features).tolist() == again.scores(features).tolist()
    assert first.scores(features).tolist() != other.scores(features).tolist()


def test_numpy_computes_what_torch_does(tmp_path):
    training, _ = made_up(0, num_requests=400)
    predictor = train_predictor(training, "l1", seed=0, epochs=3)
    with (tmp_path / "predictor.npz").open("wb") as file:
        predictor.write(file)
    loaded = LearnedPredictor.load(tmp_path)
    network = build_network(2 * len(FEATURES))
    with torch.no_grad():
        for layer, (weights, biases) in zip(list(network)[::2], predictor.layers, strict=True):
            layer.weight.copy_(torch.tensor(weights))
            layer.bias.copy_(torch.tensor(biases))
        features = length_features(made_up(3)[0])
        scores = network(torch.tensor(predictor.scale.inputs(features), dtype=torch.float32))[:, 0]
    np.testing.assert_allclose(loaded.scores(features), scores.numpy(), rtol=1e-5, atol=1e-5)


def test_bad_input_is_refused():
    few, _ = made_up(0, num_requests=319)
    with pytest.raises(InputError, match="training part of 319 requests: must be at least 320"):
        train_predictor(few, "l1", 0)
    enough, _ = made_up(0, num_requests=320)
    with pytest.raises(InputError, match="loss = hinge: must be one of l1, mse, listmle"):
        train_predictor(enough, "hinge", 0)
    with pytest.raises(InputError, match="features = mood: must be some of prompt, arrival"):
        train_predictor(enough, "l1", 0, groups=("prompt", "mood"))
