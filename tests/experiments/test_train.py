"""`servegym train` and `export`: run directories, resuming, refusals."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from servegym.agents.learners.checkpoint import checkpoints
from servegym.agents.serving.artifact.load import load_artifact
from servegym.experiments.cli import main
from servegym.experiments.run_directory import load_run_config, load_run_policy
from tests.experiments.commands import SHORT_TRAINING, SMALL_SCENARIO, SMALL_TRAINING, answer_of, error_of

TRAIN = ("train", *SMALL_TRAINING, "run_dir=run")


def curve(run_dir: Path) -> list[dict[str, float]]:
    with (run_dir / "training.csv").open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run_dir / "policy.pt", weights_only=True)
    return state


@pytest.fixture
def run_dir(capsys: pytest.CaptureFixture[str], folder: Path) -> Path:
    """A short training run, finished."""
    assert main(TRAIN) == 0
    return folder / "run"


def test_run_directory_says_what_the_run_is(capsys: pytest.CaptureFixture[str], run_dir: Path) -> None:
    names = (
        "config.yaml command.txt provenance.json code.diff packages.txt log.txt run.lock checkpoints "
        "tensorboard training.csv policy.pt finished.json"
    )
    assert {path.name for path in run_dir.iterdir()} == set(names.split())
    config = load_run_config(run_dir)
    assert (config.scenario.fleet.replicas, config.agent.hidden, config.seed) == (2, 8, 0)
    assert (run_dir / "command.txt").read_text() == f"servegym {' '.join(TRAIN)}\n"
    origin = json.loads((run_dir / "provenance.json").read_text())
    assert origin["seed"] == 0
    assert origin["workload_source"] == "generator fitted to azure_conv_2023"
    assert origin["versions"]["torch"] == torch.__version__
    assert {"cpu", "cpu_cores", "memory_gib", "gpus", "git_commit"} <= origin.keys()
    assert f"torch=={torch.__version__}" in (run_dir / "packages.txt").read_text()
    assert [line.split(": ")[-1] for line in (run_dir / "log.txt").read_text().splitlines()] == [
        *("started", "finished")
    ]
    assert any(path.stat().st_size > 0 for path in (run_dir / "tensorboard").iterdir())
    rows = curve(run_dir)
    assert [row["steps"] for row in rows] == [128, 256]  # 4 environments, episodes of 32 requests
    for row in rows:
        assert row["episodes"] == 4
        assert row["mean_return"] == pytest.approx(-32 * row["mean_ttft_s"], rel=1e-4)


def test_the_policy_is_the_trained_one(capsys: pytest.CaptureFixture[str], run_dir: Path) -> None:
    policy, origin = load_run_policy(run_dir)
    assert (policy.name, origin["steps"], origin["scenario"]) == ("ppo_gnn", 256, "generated_8xh100")
    answer_of(capsys, *TRAIN[:-1], "run_dir=other", "total_steps=64")
    trained, untrained = weights(run_dir), weights(run_dir.parent / "other")
    assert any(not torch.equal(trained[key], untrained[key]) for key in trained)
    for key, value in policy.network.state_dict().items():
        assert torch.equal(value, trained[key])


def test_the_same_seed_gives_the_same_policy(capsys: pytest.CaptureFixture[str], run_dir: Path) -> None:
    answer_of(capsys, *TRAIN[:-1], "run_dir=same")
    answer_of(capsys, *TRAIN[:-1], "run_dir=other", "seed=1")
    same, other = weights(run_dir.parent / "same"), weights(run_dir.parent / "other")
    for key, value in weights(run_dir).items():
        assert torch.equal(value, same[key])
    assert any(not torch.equal(value, other[key]) for key, value in weights(run_dir).items())


@pytest.mark.compiled
def test_the_number_of_threads_found_changes_nothing(folder: Path) -> None:
    for threads in ("1", "4"):
        words = [*TRAIN[:-1], f"run_dir={threads}", "total_steps=64", "agent.hidden=64"]
        environment = {**os.environ, "OMP_NUM_THREADS": threads}
        subprocess.run(
            [sys.executable, "-m", "servegym.experiments.cli", *words], env=environment, check=True
        )
    one, four = weights(folder / "1"), weights(folder / "4")
    assert all(torch.equal(value, four[key]) for key, value in one.items())


def test_a_finished_run_is_reported_and_not_repeated(
    capsys: pytest.CaptureFixture[str], run_dir: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    for words in (TRAIN, ("train", "run_dir=run", "resume=true")):
        answer = answer_of(capsys, *words)
        assert (answer["status"], answer["steps"]) == ("finished before", 256)
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before


def test_another_configuration_is_refused_by_its_keys(
    capsys: pytest.CaptureFixture[str], run_dir: Path
) -> None:
    message = error_of(capsys, *TRAIN, "agent.gamma=0.5", "scenario.workload.rate_rps=31")
    assert "run_dir = run: holds another run" in message
    assert "differs in scenario.workload.rate_rps, agent.gamma;" in message
    assert "leave out seed" in error_of(capsys, "train", "run_dir=run", "resume=true", "seed=0")


def test_a_folder_of_other_things_is_refused(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run/thesis.txt").write_text("precious")
    assert "run_dir = run: exists and is no run directory" in error_of(capsys, *TRAIN)


@pytest.mark.compiled
def test_a_killed_run_goes_on(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    words = [*TRAIN, "total_steps=6000", "checkpoint_steps=512"]
    process = subprocess.Popen([sys.executable, "-m", "servegym.experiments.cli", *words])
    deadline = time.monotonic() + 300
    while len(checkpoints(folder / "run")) < 2 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    reached = int(checkpoints(folder / "run")[-1].name.removeprefix("step_"))
    assert 0 < reached < 6000
    before = [row for row in curve(folder / "run") if row["steps"] <= reached]
    message = error_of(capsys, "export", "run_dir=run")
    assert "run is incomplete: missing policy.pt, finished.json;" in message
    assert "servegym train run_dir=run resume=true" in message

    answer = answer_of(capsys, "train", "run_dir=run", "resume=true")
    assert (answer["status"], answer["steps"]) == ("resumed", 6016)  # whole updates of 64
    rows = curve(folder / "run")
    assert rows[: len(before)] == before
    steps = [row["steps"] for row in rows]
    assert steps == sorted(set(steps))
    assert steps[-1] > 5_900
    commands = (folder / "run/command.txt").read_text().splitlines()
    assert commands[1:] == ["servegym train run_dir=run resume=true"]
    assert answer_of(capsys, *words)["status"] == "finished before"
    answer_of(capsys, *words, "run_dir=whole")
    killed, whole = weights(folder / "run"), weights(folder / "whole")
    assert all(torch.equal(value, killed[key]) for key, value in whole.items())
    for row, due in zip(rows, curve(folder / "whole"), strict=True):
        assert {**row, "elapsed_s": 0} == {**due, "elapsed_s": 0}


@pytest.mark.compiled
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_who_stops_a_run_finds_a_checkpoint(
    capsys: pytest.CaptureFixture[str], folder: Path, number: signal.Signals
) -> None:
    words = [*TRAIN, "total_steps=4000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "servegym.experiments.cli", *words], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 300
    while not (folder / "run/training.csv").is_file() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.002)
    assert main(words) == 2
    assert "run_dir = run: another process is at work in it" in capsys.readouterr().err
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 130
    reached = int(checkpoints(folder / "run")[-1].name.removeprefix("step_"))
    assert 0 < reached < 4000
    assert f"stopped with a checkpoint after {reached:,} decisions" in said
    assert answer_of(capsys, *words)["status"] == "resumed"
    answer_of(capsys, *words, "run_dir=whole")
    stopped, whole = weights(folder / "run"), weights(folder / "whole")
    assert all(torch.equal(value, stopped[key]) for key, value in whole.items())


def test_a_run_killed_before_its_first_checkpoint_starts_over(
    capsys: pytest.CaptureFixture[str], run_dir: Path
) -> None:
    trained = weights(run_dir)
    for name in ("policy.pt", "finished.json"):
        (run_dir / name).unlink()
    shutil.rmtree(run_dir / "checkpoints")
    assert answer_of(capsys, *TRAIN)["status"] == "trained"
    for key, value in weights(run_dir).items():
        assert torch.equal(value, trained[key])
    assert [row["steps"] for row in curve(run_dir)] == [128, 256]


def test_a_run_killed_while_its_folder_was_made_starts_over(
    capsys: pytest.CaptureFixture[str], run_dir: Path
) -> None:
    left = {"tensorboard", "command.txt", "provenance.json"}
    for path in run_dir.iterdir():
        if path.name not in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (run_dir / ".config.yaml.partial").write_text("scen")
    (run_dir / "provenance.json").write_text("{}")
    assert answer_of(capsys, *TRAIN)["status"] == "trained"
    assert load_run_policy(run_dir)[1]["scenario"] == "generated_8xh100"


@pytest.mark.parametrize("name", ["config.yaml", "provenance.json", "policy.pt", "finished.json"])
def test_incomplete_run_is_refused_by_what_is_missing(
    capsys: pytest.CaptureFixture[str], run_dir: Path, name: str
) -> None:
    (run_dir / name).unlink()
    assert f"run is incomplete: missing {name};" in error_of(capsys, "export", "run_dir=run")


@pytest.mark.parametrize("name", ["policy.pt", "provenance.json", "finished.json", "training.csv"])
def test_what_a_finished_run_has_lost_is_made_again(
    capsys: pytest.CaptureFixture[str], run_dir: Path, name: str
) -> None:
    """As the error about an incomplete run says."""
    trained = weights(run_dir)
    (run_dir / name).unlink()
    assert answer_of(capsys, "train", "run_dir=run", "resume=true")["steps"] == 256
    again = weights(run_dir)
    assert all(torch.equal(trained[key], again[key]) for key in trained)
    answer_of(capsys, "export", "run_dir=run", "out=artifact")


def test_broken_files_are_refused_by_name(capsys: pytest.CaptureFixture[str], run_dir: Path) -> None:
    config = (run_dir / "config.yaml").read_text()
    (run_dir / "policy.pt").write_bytes(b"no weights")
    assert "run/policy.pt: does not hold the weights" in error_of(capsys, "export", "run_dir=run")
    for text, part in (
        (config.replace("hidden:", "hiden:"), "agent.hiden: no such key; did you mean agent.hidden?"),
        (config.replace("seed: 0", "seed: zero"), "seed = zero: must be a whole number"),
        ("[", "not YAML"),
    ):
        (run_dir / "config.yaml").write_text(text)
        message = error_of(capsys, "export", "run_dir=run")
        assert message.startswith("run/config.yaml: ")
        assert part in message


def test_export_writes_the_trained_policy(capsys: pytest.CaptureFixture[str], run_dir: Path) -> None:
    answer = answer_of(capsys, "export", "run_dir=run", "out=artifact")
    assert answer["num_replicas"] is None
    assert answer["largest_difference"] < 1e-4
    exported = load_artifact(run_dir.parent / "artifact")
    policy, _ = load_run_policy(run_dir)
    golden = np.load(run_dir.parent / "artifact" / "golden.npz")
    observation = {name: golden[f"{name}_4"] for name in exported.level.inputs}
    due = policy.scores(observation)
    np.testing.assert_allclose(exported.scores(observation), due, rtol=1e-4, atol=1e-5)
    assert exported.description["provenance"]["scenario"] == "generated_8xh100"
    assert exported.description["provenance"]["steps"] == 256
    (Path("artifact") / "notes.txt").write_text("mine")
    assert "artifact: exists" in error_of(capsys, "export", "run_dir=run", "out=artifact")
    assert main(["export", "run_dir=run"]) == 0
    assert "any number of replicas: run/export" in capsys.readouterr().out


def test_default_run_directory_is_named_after_what_is_trained(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    answer = answer_of(capsys, "train", *SMALL_SCENARIO, "agent=ppo_mlp", *SHORT_TRAINING)
    name, digest = answer["run_dir"].rsplit("-", 1)
    assert name == "runs/train/generated_8xh100-ppo_mlp-seed0"
    assert len(digest) == 8
    other = answer_of(capsys, "train", *SMALL_SCENARIO, "agent=ppo_mlp", *SHORT_TRAINING, "agent.gamma=0.5")
    assert other["run_dir"].startswith(name) and other["run_dir"] != answer["run_dir"]
    assert answer["network"] == "mlp"
