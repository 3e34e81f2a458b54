"""The exported policy decides as the network does, without torch, and refuses what it cannot trust."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from servegym.agents.networks.engine_scorer import EngineScorer
from servegym.agents.networks.gnn import RouterGNN
from servegym.agents.networks.mlp import RouterMLP
from servegym.agents.networks.network_policy import NetworkPolicy
from servegym.agents.networks.router_network import RouterNetwork
from servegym.agents.serving.artifact import schema
from servegym.agents.serving.artifact.array_archive import write_arrays
from servegym.agents.serving.artifact.export import COLUMNS, export_policy
from servegym.agents.serving.artifact.files import describe_files
from servegym.agents.serving.artifact.golden import plausible_observation
from servegym.agents.serving.artifact.load import check_golden, load_artifact
from servegym.agents.serving.artifact.sources import sources
from servegym.agents.zoo import ZOO, policy_folder, zoo_policies
from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.view import AVAILABLE, REPLICA_COLUMNS, REQUEST_COLUMNS

RUN_INFO = {"scenario": "toy", "seed": 3, "training_steps": 1000, "results": {"mean_ttft_s": 0.5}}


def lively(network: RouterNetwork) -> RouterNetwork:
    torch.nn.init.orthogonal_(network.score.weight)  # type: ignore[union-attr, arg-type]
    return network.eval()


@pytest.fixture(scope="module")
def gnn(tmp_path_factory: pytest.TempPathFactory) -> tuple[RouterNetwork, Path]:
    torch.manual_seed(0)
    network = lively(RouterGNN(hidden=16))
    folder = tmp_path_factory.mktemp("export") / "policy"
    export_policy(network, "router", RUN_INFO, folder)
    return network, folder


@pytest.fixture
def copy(gnn: tuple[RouterNetwork, Path], tmp_path: Path) -> Path:
    """An artifact that a test may damage."""
    return shutil.copytree(gnn[1], tmp_path / "copy")


@pytest.mark.parametrize(("num_observations", "num_replicas"), [(1, 1), (1, 8), (7, 3), (100, 40)])
def test_one_graph_for_any_fleet(
    gnn: tuple[RouterNetwork, Path], num_observations: int, num_replicas: int
) -> None:
    network, folder = gnn
    policy = load_artifact(folder)
    observation = plausible_observation("router", np.random.default_rng(5), num_observations, num_replicas)
    with torch.no_grad():
        due = network(**{name: torch.from_numpy(array) for name, array in observation.items()})[0].numpy()
    scores = policy.scores(observation)
    np.testing.assert_allclose(scores, due, atol=1e-4)
    policy.reset(num_observations, seed=0)
    actions = policy.act(observation)
    assert actions.dtype == np.int64
    assert np.array_equal(actions, NetworkPolicy(network).act(observation))
    assert (observation["replicas"][np.arange(num_observations), actions, AVAILABLE] == 1).all()


def test_mlp_artifact_takes_its_fleet_only(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    network = lively(RouterMLP(4, hidden=16))
    assert export_policy(network, "router", RUN_INFO, tmp_path / "mlp") < 1e-4
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["mlp"]
    assert sorted(path.name for path in (tmp_path / "mlp").iterdir()) == sorted(schema.FILES)
    policy = load_artifact(tmp_path / "mlp")
    observation = plausible_observation("router", np.random.default_rng(5), 20, 4)
    assert np.array_equal(policy.act(observation), NetworkPolicy(network).act(observation))
    with pytest.raises(InputError, match=r"takes request \(K, 4\) and replicas \(K, 4, 15\)"):
        policy.act(plausible_observation("router", np.random.default_rng(5), 20, 5))


def test_description_says_what_a_serving_system_needs(gnn: tuple[RouterNetwork, Path]) -> None:
    description = json.loads((gnn[1] / "policy.json").read_text())
    for name, columns in (("request", REQUEST_COLUMNS), ("replicas", REPLICA_COLUMNS)):
        listed = description["inputs"][name]["features"]
        assert [(feature["name"], feature["unit"]) for feature in listed] == list(columns)
    assert description["num_replicas"] is None
    assert b".py" not in (gnn[1] / "policy.onnx").read_bytes()  # where this machine keeps its sources
    assert {key: description["provenance"][key] for key in RUN_INFO} == RUN_INFO


@pytest.mark.parametrize(
    ("level", "environment"),
    [
        ("router", "servegym/Routing-v0"),
        ("scheduler", "servegym/Batching-v0"),
        ("two_level", "servegym/TwoLevel-v0"),
    ],
)
def test_schema_is_what_is_observed(level: str, environment: str) -> None:
    """Whoever changes what is observed raises SCHEMA_VERSION and changes the names beside it."""
    for name, of in schema.LEVELS[level].inputs.items():
        assert of.features == tuple(column for column, _ in COLUMNS[name])
    spaces = gym.make(f"servegym.envs:{environment}", scenario="generated_1xh100").observation_space
    assert isinstance(spaces, gym.spaces.Dict)
    for name, of in schema.LEVELS[level].inputs.items():
        assert of.shape(1, num_replicas=1) == (1, *(spaces[name].shape or ()))


def test_scheduler_artifact_decides_as_the_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = EngineScorer(hidden=8).eval()
    torch.nn.init.orthogonal_(network.actor.score_row.weight)
    export_policy(network, "scheduler", RUN_INFO, tmp_path / "scheduler")
    policy = load_artifact(tmp_path / "scheduler")
    observation = plausible_observation("scheduler", np.random.default_rng(5), 30, 1)
    actions = policy.act(observation)
    assert np.array_equal(actions, NetworkPolicy(network).act(observation))
    assert len(set(actions.tolist())) > 3
    with pytest.raises(InputError, match=r"this policy takes engine \(K, 13\) and requests \(K, 64, 12\)"):
        policy.act({"engine": observation["engine"]})


def test_normalisation_described_is_the_one_computed(gnn: tuple[RouterNetwork, Path]) -> None:
    network, folder = gnn
    features = json.loads((folder / "policy.json").read_text())["inputs"]["request"]["features"]
    observation = plausible_observation("router", np.random.default_rng(1), 10, 2)
    inputs, *_ = network.normalise(*(torch.from_numpy(array) for array in observation.values()))
    for column, feature in enumerate(features):
        x = observation["request"][:, column]
        computed = eval(feature["normalisation"], {"log1p": np.log1p, "sign": np.sign, "x": x})
        np.testing.assert_allclose(inputs[:, column].numpy(), computed, rtol=1e-5)


DECIDE = """
import sys
from pathlib import Path
import numpy as np
from servegym.agents.serving.artifact.load import check_golden, load_artifact
from servegym.agents.serving.artifact.sources import sources
folder, backend = Path(sys.argv[1]), sys.argv[2]
policy = load_artifact(folder, backend)
request, replicas, setting = (np.ones(shape, np.float32) for shape in ((4,), (3, 15), (9,)))
assert policy.score_one({"request": request, "replicas": replicas, "setting": setting}).shape == (3,)
heavy = {"torch", "stable_baselines3", "gymnasium", "numba", "scipy", "hydra", "onnxruntime"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert not any(name.startswith(("servegym.envs", "servegym.experiments")) for name in sys.modules)
assert check_golden(policy, folder) < 1e-3
assert not heavy - {"onnxruntime"} & set(sys.modules), heavy & set(sys.modules)
"""


@pytest.mark.parametrize("backend", ["numpy", "auto"])
def test_decides_with_numpy_alone(backend: str) -> None:
    """Neither torch nor the simulator, and no ONNX Runtime until many are to be decided at once."""
    command = [sys.executable, "-c", DECIDE, str(ZOO / "router"), backend]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_without_onnx_runtime_numpy_decides_many_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    policy = load_artifact(ZOO / "router")
    assert check_golden(policy, ZOO / "router") < 1e-3


def test_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that decides otherwise than torch, by an exporter's fault, is not written."""
    from servegym.agents.serving.artifact import export

    honest = export._write_golden

    def other_weights(network: RouterNetwork, level: str, path: Path) -> None:
        torch.manual_seed(1)
        honest(lively(RouterMLP(4, hidden=8)), level, path)

    monkeypatch.setattr(export, "_write_golden", other_weights)
    with pytest.raises(InputError, match="does not reproduce the policy"):
        export_policy(lively(RouterMLP(4, hidden=8)), "router", {}, tmp_path / "policy")
    assert list(tmp_path.iterdir()) == []


def test_export_replaces_an_earlier_artifact_and_nothing_else(tmp_path: Path) -> None:
    network, out = lively(RouterMLP(4, hidden=8)), tmp_path / "policy"
    export_policy(network, "router", {"seed": 1}, out)
    export_policy(network, "router", {"seed": 2}, out)
    assert load_artifact(out).description["provenance"]["seed"] == 2
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="exists and holds something else"):
        export_policy(network, "router", {"seed": 3}, out)
    assert (out / "notes.txt").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_export_package_is_one_line(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find_spec(name)
    )
    with pytest.raises(InputError, match=rf"^{package} is not installed: pip install 'servegym\[serving\]'$"):
        export_policy(RouterGNN(hidden=8), "router", {}, tmp_path / "policy")
    assert list(tmp_path.iterdir()) == []


def test_there_are_no_other_backends(copy: Path) -> None:
    with pytest.raises(InputError, match="^backend = torch: must be one of auto, onnx, numpy, compiled$"):
        load_artifact(copy, "torch")


def test_links_are_not_followed(copy: Path, tmp_path: Path) -> None:
    (copy / "policy.npz").rename(tmp_path / "elsewhere.npz")
    (copy / "policy.npz").symlink_to(tmp_path / "elsewhere.npz")
    with pytest.raises(InputError, match=r"policy\.npz: cannot be read: a symbolic link"):
        load_artifact(copy)


def test_other_files_are_not_looked_at(copy: Path) -> None:
    (copy / "policy.pkl").write_bytes(b"whatever")
    assert check_golden(load_artifact(copy), copy) < 1e-3


def test_every_feature_has_its_source_in_every_system(gnn: tuple[RouterNetwork, Path]) -> None:
    description = json.loads((gnn[1] / "policy.json").read_text())
    for name, of in description["inputs"].items():
        for feature in of["features"]:
            assert list(feature["sources"]) == ["vllm", "ray_serve", "envoy", "litellm", "sglang"], name
            assert all(feature["sources"].values())


def test_policies_that_come_with_the_package_say_what_is_true_of_the_sources_now() -> None:
    for name in zoo_policies():
        description = json.loads((policy_folder(f"zoo:{name}") / "policy.json").read_text())
        for of, each in description["inputs"].items():
            for feature in each["features"]:
                assert feature["sources"] == sources(f"{of}.{feature['name']}"), (name, feature["name"])


def test_missing_runtime_is_one_line(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        InputError, match=r"^onnxruntime is not installed: pip install 'servegym\[serving\]'$"
    ):
        load_artifact(copy, "onnx")


@pytest.mark.parametrize("name", schema.FILES)
def test_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(InputError, match=f"{name}: missing"):
        load_artifact(copy)


def test_changed_graph_is_refused(copy: Path) -> None:
    content = bytearray((copy / "policy.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "policy.onnx").write_bytes(content)
    with pytest.raises(InputError, match=r"policy\.onnx: sha256 differs from the one in policy\.json"):
        load_artifact(copy)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("schema_version", 3, r"schema_version = 3: this servegym reads 4"),
        ("level", "autoscaler", r"level = 'autoscaler': must be one of router, scheduler, two_level"),
        ("inputs", {}, r"inputs is missing or malformed: must be request, replicas, setting"),
        ("files", None, r"files is missing or malformed: must be an object"),
        ("num_replicas", 4, r"num_replicas is missing or malformed: must be null"),
        (
            "network",
            {"kind": "gnn", "hidden": 1 << 40, "layers": 2},
            r"network\.hidden is .*: must be a whole number from 1 to 1024",
        ),
        ("network", {"kind": "engine_scorer"}, r"network\.kind is .*: must be one of mlp, gnn, attention"),
    ],
)
def test_description_of_something_else_is_refused(copy: Path, key: str, value: object, message: str) -> None:
    path = copy / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(InputError, match=message):
        load_artifact(copy)


def test_other_features_are_refused(copy: Path) -> None:
    path = copy / "policy.json"
    description = json.loads(path.read_text())
    features = description["inputs"]["replicas"]["features"]
    features[1], features[2] = features[2], features[1]
    path.write_text(json.dumps(description))
    with pytest.raises(InputError, match="features of replicas are available, waiting, running"):
        load_artifact(copy)


def test_description_that_is_not_json_is_refused(copy: Path) -> None:
    (copy / "policy.json").write_text("{")
    with pytest.raises(InputError, match=r"policy\.json: not JSON"):
        load_artifact(copy)


def test_golden_check_notices_another_policy(copy: Path) -> None:
    golden = dict(np.load(copy / "golden.npz"))
    golden["logits_8"] = golden["logits_8"] + np.float32(1e-1)
    (copy / "golden.npz").write_bytes(write_arrays(golden))
    with pytest.raises(InputError, match="golden.npz"):
        load_artifact(copy)
    path = copy / "policy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": describe_files(copy)}))
    with pytest.raises(InputError, match="logits_8 differs by 0.1"):
        check_golden(load_artifact(copy), copy)
