"""Compiled networks decide as those of torch, refuse what they are not for, and come from numbers alone."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from servegym.agents.networks import normalise
from servegym.agents.networks.forecasts import LONGEST_S
from servegym.agents.networks.gnn import RouterGNN
from servegym.agents.networks.mlp import RouterMLP
from servegym.agents.networks.router_network import RouterNetwork
from servegym.agents.serving.artifact.golden import plausible_observation
from servegym.agents.serving.artifact.load import check_golden, load_artifact
from servegym.agents.serving.artifact.schema import REPLICA_FEATURES, SETTING_FEATURES
from servegym.agents.serving.networks import c_source, compiled
from servegym.agents.serving.networks.c_source import router_source
from servegym.agents.serving.networks.compiled import CompiledNetwork
from servegym.agents.serving.routing.learned_router import LearnedRouter
from servegym.agents.zoo import policy_folder
from servegym.costmodels.errors import InputError

WAITING, AVAILABLE = REPLICA_FEATURES.index("waiting"), REPLICA_FEATURES.index("available")
TOLERANCE = 1e-5
"""Of the largest score of a decision, and at least absolute."""


def lively(network: RouterNetwork) -> RouterNetwork:
    """One whose every part matters to its scores."""
    torch.nn.init.orthogonal_(network.score.weight)  # type: ignore[union-attr, arg-type]
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-0.5, 0.5)
        network.departure[:] = torch.tensor([0.7, 0.4])
        network.prior_weights[:] = torch.tensor([0.9, 0.2])
    return network.eval()


def weights_of(network: RouterNetwork) -> dict[str, np.ndarray]:
    """As an artifact holds them."""
    arrays = {name: array.numpy() for name, array in network.state_dict().items()}
    arrays["constants.request_units"] = network.normalise.request_units.numpy()
    arrays["constants.replica_units"] = network.normalise.replica_units.numpy()
    arrays["constants.prior_units_s"] = np.array(normalise.PRIOR_UNITS, np.float32)
    arrays["constants.worst_prior"] = np.array([normalise.WORST], np.float32)
    arrays["constants.longest_s"] = np.array([LONGEST_S], np.float32)
    return {name: array for name, array in arrays.items() if not name.startswith("value.")}


def described(kind: str, layers: int) -> dict[str, object]:
    """What policy.json says of a network."""
    return {"kind": kind, "layers": layers}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def assert_decides_as(
    network: RouterNetwork, one: CompiledNetwork, num_decisions: int, num_replicas: int
) -> None:
    observation = plausible_observation(
        "router", np.random.default_rng(num_replicas), num_decisions, num_replicas
    )
    with torch.no_grad():
        due = network(**{name: torch.from_numpy(array) for name, array in observation.items()})[0].numpy()
    scores = one.scores(observation)
    illegal = due < -1e8
    np.testing.assert_array_equal(scores[illegal], due[illegal])
    allowed = TOLERANCE * np.maximum(1.0, np.abs(np.where(illegal, 0.0, due)).max(axis=1))
    assert (np.abs(np.where(illegal, 0.0, scores - due)).max(axis=1) <= allowed).all()
    action, due_action = scores.argmax(axis=1), due.argmax(axis=1)
    given_up = due.max(axis=1) - due[np.arange(num_decisions), action]
    assert (given_up <= TOLERANCE).all()
    assert (action == due_action).mean() > 0.999


@pytest.mark.parametrize("num_replicas", [1, 2, 16])
@pytest.mark.parametrize(("hidden", "layers"), [(64, 2), (20, 1), (100, 3)])
def test_flat_network(num_replicas: int, hidden: int, layers: int, cache: Path) -> None:
    torch.manual_seed(num_replicas)
    network = lively(RouterMLP(num_replicas, hidden, layers))
    assert_decides_as(
        network, CompiledNetwork(described("mlp", layers), weights_of(network), cache), 300, num_replicas
    )


@pytest.mark.parametrize(("hidden", "layers"), [(64, 2), (20, 1), (100, 3)])
def test_message_passing(hidden: int, layers: int, cache: Path) -> None:
    torch.manual_seed(hidden)
    network = lively(RouterGNN(hidden, layers))
    one = CompiledNetwork(described("gnn", layers), weights_of(network), cache)
    for num_replicas in (1, 2, 7, 16, 40, 3):
        assert_decides_as(network, one, 100, num_replicas)


@pytest.mark.slow
@pytest.mark.parametrize("num_replicas", [2, 16, 64, 256])
@pytest.mark.parametrize("kind", ["mlp", "gnn"])
def test_on_ten_thousand_decisions(kind: str, num_replicas: int, cache: Path) -> None:
    torch.manual_seed(0)
    network = lively(RouterMLP(num_replicas) if kind == "mlp" else RouterGNN())
    assert_decides_as(
        network, CompiledNetwork(described(kind, 2), weights_of(network), cache), 10_000, num_replicas
    )


@pytest.fixture(scope="module")
def gnn(cache: Path) -> CompiledNetwork:
    torch.manual_seed(1)
    return CompiledNetwork(described("gnn", 2), weights_of(lively(RouterGNN(16))), cache)


def one_decision(num_replicas: int) -> dict[str, np.ndarray]:
    observation = plausible_observation("router", np.random.default_rng(3), 1, num_replicas)
    observation["replicas"][..., AVAILABLE] = 1.0
    return {name: array[0] for name, array in observation.items()}


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["request", "replicas", "setting"])
def test_numbers_that_are_none_are_not_decided_by(gnn: CompiledNetwork, where: str, wrong: float) -> None:
    observation = one_decision(4)
    assert np.isfinite(gnn.score_one(observation)).all()
    observation[where][..., 2] = wrong
    assert np.isnan(gnn.score_one(observation)).all()


def test_what_an_unavailable_replica_says_does_not_matter(gnn: CompiledNetwork) -> None:
    observation = one_decision(4)
    observation["replicas"][1, AVAILABLE] = 0.0
    due = gnn.score_one(observation).copy()
    assert due[1] == np.float32(-1e9)
    observation["replicas"][1, WAITING] = np.nan
    np.testing.assert_array_equal(gnn.score_one(observation), due)
    observation["replicas"][:, AVAILABLE] = 0.0
    np.testing.assert_array_equal(gnn.score_one(observation), np.full(4, -1e9, np.float32))


def test_another_fleet_than_the_networks(cache: Path) -> None:
    torch.manual_seed(1)
    one = CompiledNetwork(described("mlp", 1), weights_of(lively(RouterMLP(3, 8, 1))), cache)
    with pytest.raises(ValueError, match="fleet of 4"):
        one.score_one(one_decision(4))
    assert np.isfinite(one.score_one(one_decision(3))).all()


def test_the_library_is_made_once(gnn: CompiledNetwork, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    monkeypatch.setattr(compiled, "compile_library", lambda *_: pytest.fail("compiled again"))
    again = CompiledNetwork(described("gnn", 2), weights_of(lively(RouterGNN(16))), cache)
    np.testing.assert_array_equal(again.score_one(one_decision(5)), gnn.score_one(one_decision(5)))


def test_a_cache_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(InputError, match="writable by others"):
        CompiledNetwork(described("gnn", 1), weights_of(RouterGNN(8, 1)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_as_the_backend_of_an_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = policy_folder("zoo:router")
    policy = load_artifact(folder, backend="compiled")
    assert [path.suffix for path in (tmp_path / "servegym" / "compiled").iterdir()] == [".so"]
    assert check_golden(policy, folder) < 1e-4
    observation = plausible_observation("router", np.random.default_rng(8), 1, 9)
    setting = dict(zip(SETTING_FEATURES, map(float, observation["setting"][0]), strict=True))
    routers = [LearnedRouter(load_artifact(folder, backend), setting) for backend in ("compiled", "numpy")]
    request, replicas = observation["request"][0], observation["replicas"][0]
    scores, due = (router.scores(request, replicas) for router in routers)
    np.testing.assert_allclose(scores, due, rtol=1e-5, atol=1e-4)
    with pytest.raises(InputError, match="only mlp and gnn can be compiled"):
        load_artifact(policy_folder("zoo:scheduler"), backend="compiled")


def test_without_a_compiler(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(InputError, match="no-such-compiler"):
        CompiledNetwork(described("gnn", 1), weights_of(RouterGNN(8, 1)), cache)


def test_a_compiler_that_fails(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="error"):
        compiled.compile_library("this is not C", tmp_path / "policy.so")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("score.weight", None, "score.weight is missing"),
        ("score.bias", np.zeros(2, np.float32), "score.bias is float32 (2,)"),
        ("encode_replica.weight", np.zeros((8, 42)), "float64"),
        ("departure", np.array([np.nan, 1], np.float32), "departure has numbers that are none"),
        ("encode_replica.bias", np.zeros(5000, np.float32), "hidden = 5000"),
    ],
)
def test_arrays_that_are_not_the_networks(name: str, array: np.ndarray | None, said: str) -> None:
    weights = weights_of(RouterGNN(8, 1))
    if array is None:
        del weights[name]
    else:
        weights[name] = array
    with pytest.raises(InputError) as raised:
        router_source("gnn", 1, weights)
    assert said in str(raised.value)


def test_networks_and_sizes_that_are_not_compiled() -> None:
    weights = weights_of(RouterGNN(8, 1))
    with pytest.raises(InputError, match="only mlp and gnn"):
        router_source("attention", 1, weights)
    with pytest.raises(InputError, match="layers = 99"):
        router_source("gnn", 99, weights)


def test_nothing_of_an_artifact_but_numbers_is_in_the_source() -> None:
    weights = weights_of(RouterGNN(8, 1))
    due = router_source("gnn", 1, weights)
    weights['"; int main() { system("true"); } //'] = np.zeros(1, np.float32)
    assert router_source("gnn", 1, weights) == due


def test_numbers_are_read_back_as_they_were() -> None:
    rng = np.random.default_rng(0)
    numbers = (rng.standard_normal(1000) * 10.0 ** rng.integers(-30, 30, 1000)).astype(np.float32)
    texts = [c_source._text(float(number)) for number in numbers]
    np.testing.assert_array_equal(np.array([float(text[:-1]) for text in texts], np.float32), numbers)


@pytest.mark.parametrize("kind", ["mlp", "gnn"])
def test_no_warning_and_nothing_outside_its_memory(kind: str, tmp_path: Path) -> None:
    """With every warning, and run where a compiler watches each access."""
    torch.manual_seed(0)
    network = lively(RouterMLP(5, 20, 2) if kind == "mlp" else RouterGNN(20, 2))
    observation = one_decision(5)
    source = router_source(kind, 2, weights_of(network))
    arrays = "".join(
        f"static const float {name}[] = {{{','.join(map(c_source._text, array.ravel().tolist()))}}};\n"
        for name, array in observation.items()
    )
    main = """
#include <stdio.h>
#include <stdlib.h>
int main(void) {
  float *scores = malloc(5 * sizeof(float)), *work = malloc(servegym_work_floats(5) * sizeof(float));
  for (int call = 0; call < 2; call++)
    if (servegym_scores(request, replicas, setting, 5, scores, work) != 5) return 1;
  for (int i = 0; i < 5; i++) printf("%.9g ", scores[i]);
  free(scores);
  free(work);
  return 0;
}
"""
    (tmp_path / "main.c").write_text(f"{source}\n{arrays}{main}")
    flags = "-std=gnu11 -O1 -g -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=all"
    binary = tmp_path / "main"
    subprocess.run(["cc", *flags.split(), "-o", binary, tmp_path / "main.c", "-lm"], check=True)
    done = subprocess.run(
        [binary], capture_output=True, text=True, env={**os.environ, "ASAN_OPTIONS": "detect_leaks=1"}
    )
    assert done.returncode == 0, done.stderr
    batch = {name: torch.from_numpy(array[None]) for name, array in observation.items()}
    with torch.no_grad():
        due = network(**batch)[0][0].numpy()
    np.testing.assert_allclose(np.array(done.stdout.split(), np.float32), due, rtol=1e-5, atol=1e-4)
