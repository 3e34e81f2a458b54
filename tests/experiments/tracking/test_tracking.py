"""`servegym train tracking=...`: trackers are told what training.csv says, and change nothing."""

import csv
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from mlflow import MlflowClient
from mlflow.entities import Run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from servegym.envs.scenario.compose import list_group
from servegym.experiments.cli import main
from servegym.experiments.run_directory import load_run_config
from servegym.experiments.tracking import config as tracking_config
from servegym.experiments.tracking.mlflow_run import MlflowRun
from servegym.experiments.training_curve import TrainingCurve
from tests.experiments.commands import SHORT_TRAINING_OF, SMALL_SCENARIO, SMALL_TRAINING, answer_of, error_of
from tests.experiments.tracking.wandb_file import configuration, history

TRAIN = ("train", *SMALL_TRAINING)
METRICS = ("mean_return", "mean_ttft_s", "p99_ttft_s", "mean_latency_s")
ALL = "tracking=[tensorboard,mlflow,wandb]"


@pytest.fixture(autouse=True)
def offline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process reaches nobody but itself."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            assert address[0] in ("127.0.0.1", "::1", "localhost"), address
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


def curve(run_dir: Path) -> dict[str, list[float]]:
    """Columns of training.csv."""
    with (run_dir / "training.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]}


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run_dir / "policy.pt", weights_only=True)
    return state


def mlflow_client() -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{Path('runs/mlflow/mlflow.db').absolute()}")


def mlflow_runs() -> list[Run]:
    client = mlflow_client()
    experiment = client.get_experiment_by_name("servegym")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def mlflow_metric(run: Run, name: str) -> dict[str, list[float]]:
    found = sorted(mlflow_client().get_metric_history(run.info.run_id, name), key=lambda each: each.step)
    return {"steps": [each.step for each in found], "values": [each.value for each in found]}


def wandb_files(run_id: str) -> list[Path]:
    """The files of a run, complete: the service of W&B may still be writing when a run has finished."""
    wandb.teardown()
    return sorted(Path("runs/wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb"))


def test_every_tracker_has_the_training_curve_and_none_changes_the_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer_of(capsys, *TRAIN, "run_dir=alone", "tracking=none")
    answer_of(capsys, *TRAIN, "run_dir=followed", ALL)
    assert not Path("alone/tensorboard").exists() and not Path("alone/tracking.json").exists()
    untracked, tracked = weights(Path("alone")), weights(Path("followed"))
    assert all(torch.equal(untracked[name], tracked[name]) for name in untracked)
    rows = curve(Path("followed"))
    assert rows["steps"] == [128, 256]
    events = EventAccumulator("followed/tensorboard").Reload()  # type: ignore[no-untyped-call]
    (run,) = mlflow_runs()
    (file,) = wandb_files(json.loads(Path("followed/tracking.json").read_text())["wandb"]["run_id"])
    logged = [row for row in history(file) if "episodes/mean_return" in row]
    assert [row["steps"] for row in logged] == rows["steps"]
    for name in METRICS:
        expected = pytest.approx(rows[name], rel=1e-5)  # training.csv has six digits
        scalars = events.Scalars(f"episodes/{name}")
        assert [scalar.step for scalar in scalars] == rows["steps"]
        assert [scalar.value for scalar in scalars] == expected
        in_mlflow = mlflow_metric(run, f"episodes/{name}")
        assert in_mlflow["steps"] == rows["steps"]
        assert in_mlflow["values"] == expected
        assert [row[f"episodes/{name}"] for row in logged] == expected
    losses = mlflow_metric(run, "train/loss")
    assert losses["steps"] == [128, 192, 256]  # of the update before
    assert [row["train/loss"] for row in history(file) if "train/loss" in row] == losses["values"]


@pytest.mark.parametrize("algorithm", ["double_dqn", "counterfactual", "improper"])
def test_every_learner_logs_its_curve_at_its_own_steps(
    capsys: pytest.CaptureFixture[str], algorithm: str
) -> None:
    words = (*SMALL_SCENARIO, f"agent={algorithm}", *SHORT_TRAINING_OF[algorithm])
    answer_of(capsys, "train", *words, "run_dir=run")
    rows = curve(Path("run"))
    events = EventAccumulator("run/tensorboard").Reload()  # type: ignore[no-untyped-call]
    scalars = events.Scalars("episodes/mean_return")
    assert len(rows["steps"]) >= 2
    assert [scalar.step for scalar in scalars] == rows["steps"]
    assert [scalar.value for scalar in scalars] == pytest.approx(rows["mean_return"], rel=1e-5)


def test_trackers_know_the_configuration_and_where_the_run_comes_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer_of(capsys, *TRAIN, "run_dir=run", ALL, "seed=3", "total_steps=64")
    (run,) = mlflow_runs()
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["seed"] == "3"
    assert run.data.params["scenario.fleet.replicas"] == "2"
    assert not {"run_dir", "resume"} & set(run.data.params)
    origin = json.loads(Path("run/provenance.json").read_text())
    assert run.data.tags["workload_source"] == origin["workload_source"]
    assert run.data.tags["versions.torch"] == torch.__version__
    (file,) = wandb_files(json.loads(Path("run/tracking.json").read_text())["wandb"]["run_id"])
    found = configuration(file)
    assert (found["seed"], found["scenario.fleet.replicas"]) == (3, 2)
    assert found["provenance"]["versions.torch"] == torch.__version__


def test_a_killed_run_goes_on_in_its_trackers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*TRAIN, "total_steps=384")
    answer_of(capsys, *words, "run_dir=whole", "tracking=none")
    with monkeypatch.context() as patched:
        goes_on = TrainingCurve._on_rollout_end

        def killed(self: TrainingCurve) -> None:
            goes_on(self)
            if self.num_timesteps == 256:
                raise KeyboardInterrupt

        patched.setattr(TrainingCurve, "_on_rollout_end", killed)
        assert main([*words, "run_dir=run", "tracking=[mlflow,wandb]"]) == 130
    known = json.loads(Path("run/tracking.json").read_text())
    (run,) = mlflow_runs()
    assert run.info.status == "KILLED"
    assert mlflow_metric(run, "episodes/mean_return")["steps"] == [128, 256]
    answer_of(capsys, "train", "run_dir=run", "resume=true")  # from the checkpoint before step 256
    (run,) = mlflow_runs()
    assert run.info.status == "FINISHED"
    rows = curve(Path("run"))
    returns = mlflow_metric(run, "episodes/mean_return")
    assert returns["steps"] == rows["steps"] == [128, 256, 384]
    assert returns["values"] == pytest.approx(rows["mean_return"], rel=1e-5)
    assert rows["mean_return"] == curve(Path("whole"))["mean_return"]
    files = wandb_files(known["wandb"]["run_id"])
    assert len(files) == 2  # parts of one run
    logged = [row for file in files for row in history(file) if "episodes/mean_return" in row]
    assert [row["steps"] for row in logged] == rows["steps"]
    assert json.loads(Path("run/tracking.json").read_text())["wandb"]["run_id"] == known["wandb"]["run_id"]


def test_a_run_may_go_on_with_other_trackers(capsys: pytest.CaptureFixture[str]) -> None:
    answer_of(capsys, *TRAIN, "run_dir=run", "total_steps=64", "tracking=none")
    Path("run/finished.json").unlink()
    answer_of(capsys, *TRAIN, "run_dir=run", "total_steps=64", "tracking=mlflow")
    Path("run/finished.json").unlink()
    again = ("train", "run_dir=run", "resume=true", "tracking=mlflow", "tracking.mlflow.experiment=other")
    answer_of(capsys, *again)
    assert json.loads(Path("run/tracking.json").read_text())["mlflow"]["store"].endswith(" other")


def test_a_tracker_that_fails_does_not_end_the_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(self: MlflowRun, figures: object, step: int) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(MlflowRun, "log", unreachable)
    assert main([*TRAIN, "run_dir=run", "tracking=mlflow"]) == 0
    message = "servegym: mlflow fails, the run goes on without it: no route to host\n"
    assert capsys.readouterr().err.count(message) == 1
    assert curve(Path("run"))["steps"] == [128, 256]


@pytest.mark.parametrize(
    ("tracker", "package"), [("mlflow", "mlflow"), ("mlflow", "sqlalchemy"), ("wandb", "wandb")]
)
def test_a_tracker_that_is_not_installed_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tracker: str, package: str
) -> None:
    monkeypatch.setattr(tracking_config, "find_spec", lambda name: None if name == package else object())
    assert error_of(capsys, *TRAIN, "run_dir=run", f"tracking={tracker}") == (
        f"tracking={tracker}: the package {package} is missing: pip install 'servegym[{tracker}]'"
    )


@pytest.mark.parametrize(
    ("name", "chosen"),
    [("none", set()), ("tensorboard", {"tensorboard"}), ("mlflow", {"mlflow"}), ("wandb", {"wandb"})],
)
def test_one_word_chooses_a_tracker(capsys: pytest.CaptureFixture[str], name: str, chosen: set[str]) -> None:
    answer_of(capsys, *TRAIN, "run_dir=run", "total_steps=64", f"tracking={name}")
    tracking = load_run_config(Path("run")).tracking
    assert {key for key, value in vars(tracking).items() if value} == chosen
    known = Path("run/tracking.json")
    found = set(json.loads(known.read_text())) if known.exists() else set()
    assert found | ({"tensorboard"} if Path("run/tensorboard").exists() else set()) == chosen


def test_every_file_of_the_group_is_tried() -> None:
    assert list_group("tracking") == ["mlflow", "none", "tensorboard", "wandb"]


def test_bad_settings_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert error_of(capsys, *TRAIN, "run_dir=run", "tracking=wandb", "tracking.wandb.mode=cloud") == (
        "tracking.wandb.mode = cloud: must be one of offline, online"
    )
    assert "tensorboard" in error_of(capsys, *TRAIN, "run_dir=run", "tracking=clearml")
    assert main([*TRAIN, "run_dir=run", "tracking=mlflow", "tracking.mlflow.tracking_uri=nosuch://x"]) == 2
    assert "tracking.mlflow.tracking_uri = nosuch://x: cannot be used" in capsys.readouterr().err


def test_nobody_is_told_that_a_tracker_is_used() -> None:
    import servegym.experiments.tracking.wandb_run  # noqa: F401

    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
