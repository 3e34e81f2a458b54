"""`servegym runs`: every kind of folder is known, differences are named, and only what may go goes."""

import json
import os
from pathlib import Path

import pytest

from servegym.experiments.cli import main
from tests.experiments.commands import SMALL_SCENARIO, SMALL_TRAINING, answer_of, error_of


@pytest.fixture
def results(capsys: pytest.CaptureFixture[str], folder: Path) -> Path:
    """Two training runs, one of them never finished, and a simulation."""
    for seed in (0, 1):
        answer_of(capsys, "train", *SMALL_TRAINING, f"seed={seed}", f"run_dir=runs/seed{seed}")
    for name in ("policy.pt", "finished.json"):
        (folder / "runs/seed1" / name).unlink()
    answer_of(capsys, "simulate", *SMALL_SCENARIO, "out=runs/deep/er/jsq")
    (folder / "runs/notes").mkdir()
    return folder


def test_every_folder_of_results_is_listed(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    found = {run["run"]: run for run in answer_of(capsys, "runs", "list")["runs"]}
    assert {name: (run["kind"], run["status"]) for name, run in found.items()} == {
        "runs/deep/er/jsq": ("simulate", "finished"),
        "runs/seed0": ("train", "finished"),
        "runs/seed1": ("train", "unfinished"),
    }
    assert found["runs/deep/er/jsq"]["about"] == "generated_8xh100, jsq"
    metrics = json.loads((results / "runs/deep/er/jsq/metrics.json").read_text())["metrics"]
    assert found["runs/deep/er/jsq"]["figures"]["mean_ttft_s"] == metrics["mean_ttft_s"]
    assert len(answer_of(capsys, "runs", "list", "kind=train")["runs"]) == 2
    assert main(["runs", "list"]) == 0
    assert "runs/seed1" in capsys.readouterr().out


def test_a_run_is_shown_with_all_that_it_is(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    (run,) = answer_of(capsys, "runs", "show", "runs/seed1")["runs"]
    assert run["missing"] == ["policy.pt", "finished.json"]
    assert run["config"]["agent"]["hidden"] == 8
    assert run["commands"] == [f"servegym train {' '.join(SMALL_TRAINING)} seed=1 run_dir=runs/seed1"]
    assert run["provenance"]["cpu_cores"] == os.cpu_count()
    assert main(["runs", "show", "runs/seed1"]) == 0
    shown = capsys.readouterr().out
    assert "unfinished, lacks policy.pt, finished.json" in shown and "agent.hidden = 8" in shown


def test_runs_are_compared_by_what_differs(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    answer = answer_of(capsys, "runs", "compare", "runs/seed0", "runs/seed1")
    assert answer["differing"] == {"seed": [0, 1]}
    assert answer["provenance"] == {"seed": [0, 1]}
    first, second = answer["figures"]["mean_return"]
    assert first != second
    assert main(["runs", "compare", "runs/seed0", "runs/seed1"]) == 0


def test_only_what_may_go_is_pruned_and_only_when_told(
    capsys: pytest.CaptureFixture[str], results: Path
) -> None:
    def pruned(*words: str) -> set[str]:
        return {each["folder"] for each in answer_of(capsys, "runs", "prune", *words)["folders"]}

    assert pruned() == {"runs/seed0/checkpoints"}
    assert pruned("older_than_days=0") == {"runs/seed0/checkpoints", "runs/seed1"}
    assert (results / "runs/seed1").exists()
    assert pruned("older_than_days=0", "delete=true") == {"runs/seed0/checkpoints", "runs/seed1"}
    assert {path.name for path in (results / "runs").iterdir()} == {"seed0", "deep", "notes"}
    assert (results / "runs/seed0/policy.pt").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("prun",), "what = prun: must be one of list, show, compare, prune"),
        (("show",), "runs show: no runs given"),
        (("show", "runs/notes"), "runs/notes: must be a folder that servegym"),
        (("list", "root=nowhere"), "nowhere: no such folder"),
        (("list", "kind=training"), "kind = training: must be one of sweep, study, train"),
    ],
)
def test_bad_input_is_refused(
    capsys: pytest.CaptureFixture[str], results: Path, words: tuple[str, ...], said: str
) -> None:
    assert error_of(capsys, "runs", *words).startswith(said)


def test_a_damaged_run_is_named(capsys: pytest.CaptureFixture[str], results: Path) -> None:
    (results / "runs/seed0/provenance.json").write_text("{")
    assert error_of(capsys, "runs", "show", "runs/seed0").startswith("runs/seed0/provenance.json: not JSON")
    assert len(answer_of(capsys, "runs", "list")["runs"]) == 2
