"""NumPy, ONNX Runtime and torch are one network: equal scores, the same decisions, for any fleet."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from servegym.agents.networks.action_network import ActionNetwork
from servegym.agents.networks.build import build_network
from servegym.agents.serving.artifact.export import export_policy
from servegym.agents.serving.artifact.golden import plausible_observation
from servegym.agents.serving.artifact.load import TOLERANCE, ExportedPolicy, load_artifact
from servegym.agents.serving.artifact.network_arrays import arrays_of, network_description
from servegym.agents.serving.networks.numpy_network import NETWORKS, NumpyNetwork
from servegym.agents.zoo import ZOO
from servegym.envs.sim.llm.view import AVAILABLE, LATENCY_WEIGHT, TTFT_WEIGHT

FLEETS = (1, 2, 3, 7, 16, 33)

Observation = dict[str, np.ndarray]


def lively(kind: str, num_replicas: int, hidden: int = 32, seed: int = 0) -> ActionNetwork:
    """A network of which every number matters: no bias is 0, no last layer is small."""
    torch.manual_seed(seed)
    network = build_network(kind, num_replicas, hidden, 2).eval()
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.1, 0.9)
        elif "score" in name:
            torch.nn.init.orthogonal_(parameter)
    for name, buffer in network.named_buffers():
        if name.endswith("departure"):
            buffer[:] = torch.tensor([0.7, 0.9])
    return network


def in_numpy(network: ActionNetwork) -> NumpyNetwork:
    return NumpyNetwork(network_description(network), arrays_of(network))


def observations(kind: str, seed: int, count: int, num_replicas: int) -> Observation:
    """Of all objectives, with some of them mixed."""
    rng = np.random.default_rng([seed, num_replicas])
    found = plausible_observation(NETWORKS[kind].level, rng, count, num_replicas)
    if "setting" in found:
        found["setting"][::3, [TTFT_WEIGHT, LATENCY_WEIGHT]] = rng.random((len(found["setting"][::3]), 2))
    return found


def torch_scores(network: ActionNetwork, observation: Observation) -> np.ndarray:
    with torch.no_grad():
        logits, _ = network(**{name: torch.from_numpy(array) for name, array in observation.items()})
    return np.asarray(logits.numpy())


def one_by_one(observation: Observation) -> Iterator[Observation]:
    for k in range(len(next(iter(observation.values())))):
        yield {name: array[k] for name, array in observation.items()}


def assert_equal(due: np.ndarray, found: np.ndarray) -> None:
    """Within the tolerance, relative to the largest score; and as good an action is chosen."""
    legal = due > -1e8
    assert np.array_equal(legal, found > -1e8)
    allowed = TOLERANCE * max(1.0, float(np.abs(due[legal]).max()))
    assert float(np.abs(due - found)[legal].max()) <= allowed
    chosen = due[np.arange(len(due)), found.argmax(axis=1)]
    assert (due.max(axis=1) - chosen <= allowed).all()


@pytest.mark.parametrize("kind", NETWORKS)
def test_numpy_scores_as_torch(kind: str) -> None:
    for num_replicas in FLEETS:
        network = lively(kind, num_replicas)
        observation = observations(kind, 1, 40, num_replicas)
        numpy = in_numpy(network)
        due = torch_scores(network, observation)
        assert len({*due.argmax(axis=1).tolist()}) > 1 or due.shape[1] == 1
        assert_equal(due, numpy.scores(observation))
        assert_equal(due, np.stack([numpy.score_one(one).copy() for one in one_by_one(observation)]))


@pytest.mark.parametrize("kind", ["mlp", "gnn", "attention"])
def test_a_fleet_without_anybody_to_choose(kind: str) -> None:
    network = lively(kind, 5)
    observation = observations(kind, 1, 6, 5)
    observation["replicas"][::2, :, AVAILABLE] = 0.0
    scores = in_numpy(network).scores(observation)
    assert (scores[::2] == -1e9).all()
    assert_equal(torch_scores(network, observation)[1::2], scores[1::2])


@pytest.mark.parametrize("kind", ["gnn", "attention", "two_level"])
def test_of_replicas_that_are_alike_the_first_is_chosen(kind: str) -> None:
    """As by torch: idle replicas are, and which of them it is must not depend on a library's kernels."""
    network = lively(kind, 0)
    numpy = in_numpy(network)
    for num_replicas in range(2, 60):
        observation = observations(kind, 1, 2, num_replicas)
        observation["replicas"][0] = observation["replicas"][0, num_replicas // 2]
        observation["replicas"][0, :, AVAILABLE] = 1.0
        observation["replicas"][0, 0, AVAILABLE] = float(num_replicas % 2)
        due = torch_scores(network, observation)
        first = 0 if num_replicas % 2 else 1
        assert due[0].argmax() == numpy.scores(observation)[0].argmax() == first


def test_what_was_decided_before_leaves_no_trace() -> None:
    """Buffers are used again: by other fleets, after what is not a number, after illegal replicas."""
    network = lively("gnn", 0)
    numpy = in_numpy(network)
    small, large = observations("gnn", 1, 20, 4), observations("gnn", 2, 20, 9)
    spoilt = {name: array[0].copy() for name, array in small.items()}
    spoilt["replicas"][:, 3:] = np.nan
    due = {len(each["replicas"][0]): torch_scores(network, each) for each in (small, large)}
    with np.errstate(all="ignore"):
        for k in range(20):
            for each in (small, large):
                numpy.score_one(spoilt)
                one = {name: array[k] for name, array in each.items()}
                num_replicas = len(one["replicas"])
                assert_equal(due[num_replicas][k : k + 1], numpy.score_one(one)[None])


def test_not_a_number_is_not_hidden() -> None:
    """Whoever asks must be able to tell that there is no decision."""
    network = lively("mlp", 4)
    (one,) = one_by_one(observations("mlp", 1, 1, 4))
    one["replicas"][:, AVAILABLE] = 1.0
    one["replicas"][2, 1] = np.nan
    with np.errstate(all="ignore"):
        assert np.isnan(in_numpy(network).score_one(one)).any()


def test_buffers_of_many_fleets_are_let_go() -> None:
    numpy = in_numpy(lively("gnn", 0, hidden=8))
    for num_replicas in range(1, 200):
        (one,) = one_by_one(observations("gnn", 1, 1, num_replicas))
        assert numpy.score_one(one).shape == (num_replicas,)
    assert len(numpy._of_size) <= 64


@pytest.mark.parametrize("backend", ["numpy", "onnx", "auto"])
def test_one_decision_is_one_of_many(backend: str) -> None:
    policy = load_artifact(ZOO / "router", backend)
    for num_replicas in (1, 6):
        observation = observations("gnn", 3, 20, num_replicas)
        due = policy.scores(observation)
        for k, one in enumerate(one_by_one(observation)):
            assert_equal(due[k : k + 1], policy.score_one(one)[None])


def agreement(network: ActionNetwork, kind: str, folder: Path, fleets: list[int]) -> None:
    """Of 50 observations of each fleet size."""
    policies: list[ExportedPolicy] = [load_artifact(folder, "numpy"), load_artifact(folder, "onnx")]
    worst, others, count = 0.0, 0, 0
    for batch, num_replicas in enumerate(fleets):
        observation = observations(kind, batch, 50, num_replicas)
        due = torch_scores(network, observation)
        legal = due > -1e8
        for policy in policies:
            found = np.stack([policy.score_one(one).copy() for one in one_by_one(observation)])
            assert_equal(due, found)
            worst = max(worst, float(np.abs(due - found)[legal].max() / max(1.0, np.abs(due[legal]).max())))
            others += int((due.argmax(axis=1) != found.argmax(axis=1)).sum())
            count += len(due)
    print(
        f"{kind}: {count} scored, {worst:.1e} of the largest at most, {others} times another of equal score"
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_ten_thousand_observations(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    level = NETWORKS[kind].level
    if not NETWORKS[kind].fixed:
        network = lively(kind, 0, hidden=64)
        export_policy(network, level, {}, tmp_path / "policy")
        fleets = [2, 256, *(rng.integers(2, 257, size=198) if level != "scheduler" else [1] * 198)]
        agreement(network, kind, tmp_path / "policy", [int(size) for size in fleets])
        return
    for num_replicas in (2, 16, 64, 256):
        network = lively(kind, num_replicas, hidden=64)
        export_policy(network, level, {}, tmp_path / "policy")
        agreement(network, kind, tmp_path / "policy", [num_replicas] * 50)
