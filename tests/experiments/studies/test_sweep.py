"""Sweeps: every combination once, checked beforehand, the same by every launcher and after any kill."""

import importlib
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from servegym.experiments.cli import main
from tests.experiments.commands import SMALL_SCENARIO, SMALL_TRAINING, answer_of, error_of

SIMULATE = ("simulate", "-m", *SMALL_SCENARIO, "router=jsq,random", "seed=0,1")
TRAIN = ("train", "-m", *SMALL_TRAINING, "seed=range(2)")


def metrics(answer: dict[str, Any]) -> list[dict[str, float]]:
    return [run["answer"]["metrics"] for run in answer["runs"]]


def trained(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Weights by the name of the run directory."""
    paths = sorted((folder / "runs/train").glob("*/policy.pt"))
    return {path.parent.name: torch.load(path, weights_only=True) for path in paths}


def same(one: dict[str, dict[str, torch.Tensor]], other: dict[str, dict[str, torch.Tensor]]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(tensor, other[run][name]) for run, state in one.items() for name, tensor in state.items()
    )


def test_every_combination_runs_into_a_folder_of_its_own(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    answer = answer_of(capsys, *SIMULATE)
    assert (answer["finished"], answer["refused"], answer["failed"]) == (4, 0, 0)
    assert [tuple(run["words"][-2:]) for run in answer["runs"]] == [
        (f"router={router}", f"seed={seed}") for router in ("jsq", "random") for seed in (0, 1)
    ]
    folders = {run["answer"]["out"] for run in answer["runs"]}
    assert len(folders) == 4
    for run in answer["runs"]:
        alone = answer_of(capsys, "simulate", *run["words"])
        assert alone["out"] == run["answer"]["out"]
        assert alone["metrics"] == run["answer"]["metrics"]
    assert {path.name for path in folder.iterdir()} == {"runs"}


def test_what_differs_is_shown(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(SIMULATE) == 0
    shown = capsys.readouterr().out
    assert "router=random seed=1" in shown and "mean_ttft_s" in shown
    assert f"Sweep: {folder}/runs/sweeps/simulate-" in shown


def test_keys_of_a_choice_of_several_can_be_set(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    words = [word for word in SMALL_TRAINING if not word.startswith("agent=")]
    answer = answer_of(capsys, "train", "-m", *words, "agent=ppo_mlp,ppo_gnn", "total_steps=64")
    assert [run["answer"]["network"] for run in answer["runs"]] == ["mlp", "gnn"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("seed=0,-1",), "seed = -1: must be at least 0"),
        (("seed=0,one",), "seed = one: must be a whole number"),
        (("router=jsq,jsk",), "router = jsk: must be one of .*did you mean jsq?"),
        (("router=power_of_two", "router.d=1,2.5"), "router.d = 2.5: must be of type int"),
        (("sed=0,1",), "sed: no such key; did you mean seed?"),
        (("seed=0,1", "out=here"), "here: several runs of the sweep would write this folder"),
        (("seed=0,1", "launcher=joblip"), "launcher = joblip: must be one of .*did you mean joblib?"),
        (
            ("seed=0,1", "launcher=joblib", "hydra.launcher.n_jobs=x"),
            "hydra.launcher.n_jobs = x: must be a whole",
        ),
        (("sweeper=optuna", "seed=range(2)"), "sweeper = optuna: simulate has no score to minimise"),
        (("seed=0,1", "--cfg", "job"), "--cfg: is for one run"),
    ],
)
def test_bad_input_is_refused_before_any_run(
    capsys: pytest.CaptureFixture[str], folder: Path, words: tuple[str, ...], said: str
) -> None:
    message = error_of(capsys, "simulate", "-m", *SMALL_SCENARIO, *words)
    first, _, rest = said.partition(".*")
    assert message.startswith(first) and rest in message
    assert list(folder.iterdir()) == []


def test_a_scenario_that_does_not_fit_is_refused_before_any_run(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    words = [word for word in SMALL_TRAINING if not word.startswith("agent=")]
    message = error_of(capsys, "train", "-m", *words, "agent=ppo_gnn,ppo_scheduler")
    assert message.startswith("scenario.fleet.replicas = 2: servegym/Batching-v0 schedules one replica")


def test_a_finished_run_is_not_repeated(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    first = answer_of(capsys, *TRAIN)
    assert [run["answer"]["status"] for run in first["runs"]] == ["trained"] * 2
    wider = answer_of(capsys, *TRAIN[:-1], "seed=range(3)")
    assert [run["answer"]["status"] for run in wider["runs"]] == [*["finished before"] * 2, "trained"]
    assert wider["runs"][0]["answer"]["training"] == first["runs"][0]["answer"]["training"]


def test_a_run_that_fails_leaves_the_others_alone(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from servegym.experiments import simulate

    whole = simulate.simulate

    def fail(config: Any) -> Any:
        if config.seed == 1:
            raise ZeroDivisionError("of our own")
        return whole(config)

    monkeypatch.setattr(simulate, "simulate", fail)
    assert main([*SIMULATE, "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert [run["status"] for run in answer["runs"]] == ["finished", "failed"] * 2
    assert answer["runs"][1]["error"] == "ZeroDivisionError: of our own"
    log = Path(answer["sweep"]) / "logs/000001.log"
    assert "Traceback" in log.read_text()


@pytest.mark.compiled
@pytest.mark.parametrize("launcher", ["joblib", "submitit", "ray"])
def test_every_launcher_gives_the_same_results(
    capsys: pytest.CaptureFixture[str], folder: Path, launcher: str
) -> None:
    processes = {
        "joblib": ("hydra.launcher.n_jobs=2",),
        "ray": ("hydra.launcher.ray.init.num_cpus=2",),
        "submitit": (),
    }
    here = metrics(answer_of(capsys, *SIMULATE))
    assert main([*SIMULATE, f"launcher={launcher}", *processes[launcher], "--json"]) == 0
    there = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert metrics(there) == here


@pytest.mark.parametrize(
    ("word", "part", "target"),
    [
        ("launcher=slurm", "launcher", "SlurmLauncher"),
        ("launcher=submitit", "launcher", "LocalLauncher"),
        ("launcher=ray", "launcher", "RayLauncher"),
        ("launcher=joblib", "launcher", "JoblibLauncher"),
        ("launcher=local", "launcher", "BasicLauncher"),
        ("sweeper=optuna", "sweeper", "OptunaSweeper"),
        ("sweeper=grid", "sweeper", "BasicSweeper"),
    ],
)
def test_every_choice_is_one_of_hydras_plugins(
    capsys: pytest.CaptureFixture[str], folder: Path, word: str, part: str, target: str
) -> None:
    words = [
        "simulate",
        *SMALL_SCENARIO,
        word,
        "hydra.sweep.dir=here",
        "--cfg",
        "hydra",
        "-p",
        f"hydra.{part}",
    ]
    assert main(words) == 0
    settings = OmegaConf.create(capsys.readouterr().out)
    module, _, name = settings._target_.rpartition(".")
    plugin = getattr(importlib.import_module(module), name)
    assert name == target
    parameters = inspect.signature(plugin).parameters
    any_name = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    assert any_name or set(settings) <= {"_target_", *parameters}


@pytest.mark.compiled
def test_a_worker_that_is_killed_loses_nothing(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """One of joblib's processes dies on its first run, as by the kernel's out-of-memory killer."""
    program = """
import os, signal, sys
from pathlib import Path
from servegym.experiments.studies import sweep
whole = sweep.SweepJob.__call__
def die_once(self, config):
    dead = Path("dead")
    if config.seed == 1 and not dead.exists():
        dead.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self, config)
sweep.SweepJob.__call__ = die_once
"""
    (folder / "sitecustomize.py").write_text(program)
    words = [*SIMULATE, "launcher=joblib", "hydra.launcher.n_jobs=2", "--json"]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", "servegym.experiments.cli", *words],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (folder / "dead").exists()
    assert done.returncode == 0, done.stderr
    assert "going on" in done.stderr
    assert metrics(json.loads(done.stdout)) == metrics(answer_of(capsys, *SIMULATE))


def kill_and_go_on(words: list[str], kills: int, rng: np.random.Generator) -> int:
    """Starts a command again and again and kills all its processes; then lets it end. Kills made in training.

    Every fourth one dies at any time from its start on, the others within 1.5 s of going on with a run.
    """
    made = 0
    for number in range(kills):
        logged = log_lines()
        process = subprocess.Popen(
            [sys.executable, "-m", "servegym.experiments.cli", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while number % 4 and process.poll() is None and log_lines() == logged:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1.5 if number % 4 else 6.0))
        if process.poll() is None:
            made += log_lines() > logged
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert main(words) == 0
    return made


def log_lines() -> int:
    """Of all runs below this folder: they grow when a run begins or goes on."""
    return sum(len(path.read_text().splitlines()) for path in Path("runs").glob("train/*/log.txt"))


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("total_steps=60_000", "checkpoint_steps=1_000", "run_dir=runs/train/x"), id="training"),
        pytest.param(
            ("-m", "total_steps=20_000", "checkpoint_steps=1_000", "seed=range(3)", "launcher=joblib"),
            id="sweep",
        ),
    ],
)
def test_whatever_is_killed_at_random_ends_as_if_undisturbed(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    line = ["train", *SMALL_TRAINING, *words]
    for name in ("killed", "whole"):
        (folder / name).mkdir()
    monkeypatch.chdir(folder / "whole")
    subprocess.run([sys.executable, "-m", "servegym.experiments.cli", *line], check=True)
    monkeypatch.chdir(folder / "killed")
    assert kill_and_go_on(line, kills=20, rng=np.random.default_rng(0)) >= 10
    assert same(trained(folder / "killed"), trained(folder / "whole"))


TUNE = (
    *("tune", "-m", "sweeper=optuna", "hydra.sweeper.n_trials=12", "episodes=2", *SMALL_SCENARIO),
    *("router=power_of_two", "router.d=range(1,3)"),
    "scenario.engine.max_num_batched_tokens=choice(256,8192)",
)


def test_a_search_finds_better_parameters_and_takes_the_same_course_again(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    answer = answer_of(capsys, *TUNE)
    scores = [run["answer"]["score"] for run in answer["runs"]]
    assert len(scores) == 12
    assert answer["best"]["score"] == min(scores) < max(scores)
    alone = answer_of(capsys, "tune", *answer["best"]["words"])
    assert alone["score"] == min(scores)
    (Path(answer["sweep"]) / "jobs/000007.json").unlink()  # as if it had been killed on the way
    again = answer_of(capsys, *TUNE)
    assert again["runs"] == answer["runs"]
    assert (Path(answer["sweep"]) / "study.db").exists()


def test_a_search_beyond_the_limits_of_a_key_is_refused(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    message = error_of(capsys, *TUNE[:-2], "router.d=range(0,3)")
    assert message.startswith("router.d = 0: must be")
    assert "no metric" not in error_of(capsys, "tune", *SMALL_SCENARIO, "metric=mean_laten")


def test_agents_are_searched_by_their_returns(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    search = ("sweeper=optuna", "hydra.sweeper.n_trials=3", "agent.gamma=choice(0.5,0.9,0.99)")
    answer = answer_of(capsys, "train", "-m", *SMALL_TRAINING, *search)
    returns = [run["answer"]["training"]["mean_return"] for run in answer["runs"]]
    assert answer["best"]["score"] == -max(returns)
    again = answer_of(capsys, "train", "-m", *SMALL_TRAINING, *search)
    assert {run["answer"]["status"] for run in again["runs"]} == {"finished before"}
