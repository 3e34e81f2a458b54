"""`servegym policy`: what a policy is, whether it can be trusted, how long it takes, and signing it."""

import itertools
import shutil
from pathlib import Path

import pytest

from servegym.agents.serving.artifact.schema import FILES
from servegym.agents.zoo import ZOO
from servegym.experiments.cli import main
from tests.experiments.commands import answer_of, error_of


@pytest.fixture
def copy(folder: Path) -> str:
    shutil.copytree(ZOO / "router", folder / "copy")
    return "copy"


def test_a_policy_is_inspected(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    answer = answer_of(capsys, "policy", "inspect", "policy=zoo:router", "system=sglang")
    assert answer["network"] == {"kind": "gnn", "hidden": 64, "layers": 2, "numbers": 28_002}
    assert answer["decision"] == "which replica gets a request"
    waiting = answer["inputs"]["replicas"][2]
    assert waiting == {"name": "waiting", "unit": "requests", "source": "own books"}
    assert answer["provenance"]["suite"]["name"] == "routing"
    assert main(["policy", "inspect", "policy=zoo:two_level"]) == 0
    shown = capsys.readouterr().out
    assert "any number of replicas" in shown and "vllm:num_requests_running" in shown


def test_a_policy_is_verified(capsys: pytest.CaptureFixture[str], copy: str) -> None:
    checks = answer_of(capsys, "policy", "verify", f"policy={copy}", "observations=60")["checks"]
    assert {"files", "graph", "arrays", "golden, numpy", "golden, onnx"} <= set(checks)
    assert checks["numpy and onnx"].startswith("60 random observations")
    assert main(["policy", "verify", f"policy={copy}", "observations=0"]) == 0
    assert capsys.readouterr().out.count("ok  ") == 6


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_policy_is_refused_in_one_line(
    name: str, capsys: pytest.CaptureFixture[str], copy: str, folder: Path
) -> None:
    content = bytearray((folder / copy / name).read_bytes())
    content[0] ^= 0x40
    (folder / copy / name).write_bytes(content)
    for what in ("verify", "inspect"):
        assert copy in error_of(capsys, "policy", what, f"policy={copy}")


def test_a_policy_is_signed(capsys: pytest.CaptureFixture[str], copy: str, folder: Path) -> None:
    (folder / "key").write_bytes(b"k" * 32)
    words = (f"policy={copy}", "key=key")
    assert "policy.sig: missing" in error_of(capsys, "policy", "verify", *words)
    assert answer_of(capsys, "policy", "sign", *words)["signature"] == f"{copy}/policy.sig"
    checks = answer_of(capsys, "policy", "verify", *words, "observations=0")["checks"]
    assert checks["signature"] == "of this key"
    (folder / "key").write_bytes(b"l" * 32)
    assert "not of this key" in error_of(capsys, "policy", "verify", *words)


def test_decisions_are_timed_in_one_thread(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    answer = answer_of(capsys, "policy", "bench", "policy=zoo:router", "sizes=[2,5]", "decisions=100")
    measured = {(each["num_replicas"], each["backend"], each["what"]) for each in answer["times"]}
    what = ("scores", "features and scores", "route")
    assert measured == set(itertools.product((2, 5), ("numpy", "onnx"), what))
    assert all(0 < each["p50_us"] <= each["p99_us"] for each in answer["times"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("eat",), "what = eat: must be one of inspect, verify, bench, sign"),
        (("sign",), "key: missing"),
        (("bench", "sizes=[0]"), "must be fleet sizes from 1 to 4096"),
        (("bench", "backends=[torch]"), "must be of numpy, onnx, compiled"),
        (("inspect", "system=triton"), "must be one of vllm, ray_serve"),
        (("verify", "key=none"), "key = none: cannot be read"),
    ],
)
def test_bad_input_is_one_line(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    assert message in error_of(capsys, "policy", *words, "policy=zoo:router")
