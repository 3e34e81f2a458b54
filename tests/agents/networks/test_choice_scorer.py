"""The network of elastic sequence parallelism fits any fleet, and numbers of groups mean nothing to it."""

import numpy as np
import pytest
import torch

from servegym.agents.networks.action_network import ILLEGAL_LOGIT, as_tensors
from servegym.agents.networks.choice_scorer import KINDS, RANK, ChoiceScorer
from servegym.agents.networks.network_policy import NetworkPolicy
from servegym.envs.elastic_sequence_parallel.observation import LEGAL, Observation, arrays

sizes = pytest.mark.parametrize("num_instances", [1, 4, 7])


def plausible(num_instances: int, seed: int = 0) -> Observation:
    """Five observations with about half of the actions legal, and half of the instances to be had."""
    random = np.random.default_rng(seed)
    observation = arrays(5, num_instances)
    for array in observation.values():
        array[:] = random.exponential(100.0, array.shape) * (random.random(array.shape) < 0.7)
    legal = random.random(observation["choices"].shape[:2]) < 0.5
    legal[:, 0] = True
    observation["choices"][..., LEGAL] = legal
    ranks = [random.permutation(num_instances) for _ in range(5)]
    observation["instances"][..., RANK] = np.maximum(0, np.array(ranks) + 1 - num_instances // 2)
    observation["groups"][..., 0] = np.arange(2 * num_instances) == 1
    return observation


def scores(network: ChoiceScorer, observation: Observation) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        return network.scores(as_tensors(observation))


@pytest.fixture
def network() -> ChoiceScorer:
    torch.manual_seed(0)
    network = ChoiceScorer(16, 2)
    torch.nn.init.orthogonal_(network.score.weight)  # scores that differ
    torch.nn.init.normal_(network.choice_from_kind)
    return network


@sizes
def test_one_network_fits_any_number_of_instances(network: ChoiceScorer, num_instances: int) -> None:
    observation = plausible(num_instances)
    logits, values = scores(network, observation)
    assert logits.shape == (5, 2 * num_instances + 4) and values.shape == (5,)
    legal = observation["choices"][..., LEGAL] > 0
    assert np.array_equal(logits.numpy() > ILLEGAL_LOGIT / 2, legal)
    assert logits[torch.from_numpy(legal)].std() > 0.01
    chosen = NetworkPolicy(network).act(observation)
    assert legal[np.arange(5), chosen].all()


@sizes
def test_numbers_of_groups_and_of_instances_mean_nothing(network: ChoiceScorer, num_instances: int) -> None:
    observation = plausible(num_instances)
    groups = np.random.default_rng(1).permutation(2 * num_instances)
    instances = np.random.default_rng(2).permutation(num_instances)
    renumbered = {
        **observation,
        "instances": observation["instances"][:, instances],
        "groups": observation["groups"][:, groups],
        "members": observation["members"][:, groups][:, :, instances],
    }
    for ours, theirs in zip(scores(network, observation), scores(network, renumbered), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_prefill_is_scored_by_the_instances_it_takes(network: ChoiceScorer) -> None:
    """Two instances exchange their places among those that can be had: only one instance alone differs."""
    observation = plausible(4)
    observation["choices"][..., LEGAL] = 1.0
    observation["choices"][:, 1:5, 1:] = 0.0
    observation["instances"][..., RANK] = [1, 2, 3, 4]
    other = {name: array.copy() for name, array in observation.items()}
    other["instances"][:, :2] = observation["instances"][:, [1, 0]]
    other["instances"][:, :2, RANK] = [1, 2]
    other["members"][..., :2] = observation["members"][..., [1, 0]]

    def without_rank(observed: Observation) -> torch.Tensor:
        with torch.no_grad():
            network.actor.encode_instance.weight[:, RANK] = 0.0
        return scores(network, observed)[0]

    before, after = without_rank(observation), without_rank(other)
    same = torch.isclose(before, after, atol=1e-5)
    assert not same[:, [1, 5]].all()
    assert same[:, [0, 2, 3, 4]].all()


def test_kinds_of_actions_differ(network: ChoiceScorer) -> None:
    observation = {name: np.zeros_like(array) for name, array in plausible(3).items()}
    observation["choices"][..., LEGAL] = 1.0
    logits, _ = scores(network, observation)
    assert len(np.unique(logits[0].numpy().round(5))) == KINDS


def test_finite_at_the_extremes(network: ChoiceScorer) -> None:
    observation = plausible(4)
    observation["requests"][..., 4] = -1e6
    for array in observation.values():
        array *= 1e9
    logits, values = scores(network, observation)
    assert torch.isfinite(logits).all() and torch.isfinite(values).all()


def test_it_prefills_once_that_is_likelier_than_not() -> None:
    logits = torch.full((3, 12), -9.0)  # four instances: 1 to 8 prefill
    logits[:, 0] = 1.0  # alone likelier than each of the others
    logits[0, [2, 7]] = torch.tensor([0.4, 0.5])
    logits[1, 2] = 0.4
    logits[2, 11] = 2.0
    assert ChoiceScorer(4).best(logits).tolist() == [7, 0, 11]
