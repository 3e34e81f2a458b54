"""`servegym report` on folders that commands have written."""

import json
from pathlib import Path

import pytest

from servegym.experiments.cli import main
from tests.experiments.commands import SMALL_SCENARIO, answer_of, error_of
from tests.experiments.reporting.folders import write_simulation, write_training


def test_real_runs_of_several_commands_make_one_page(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for router in ("jsq", "random"):
        answer_of(capsys, "simulate", *SMALL_SCENARIO, f"router={router}", f"out=runs/{router}")
    answer_of(capsys, "evaluate", *SMALL_SCENARIO, "policies=[jsq]", "seeds=2", "out=runs/evaluation")
    small = (
        "scenario=resnet50_8gpu",
        "scenario.fleet.num_gpus=2",
        "seeds=1",
        "requests=100",
        "tolerance=0.1",
    )
    answer_of(capsys, "goodput", *small, "policy=symphony", "out=runs/goodput")
    words = ("router=jsq", "episodes=2", "episode_requests=50", "workers=1", "out=runs/study")
    answer_of(capsys, "study", *SMALL_SCENARIO, *words)
    write_training(folder / "runs/trained")
    answer = answer_of(capsys, "report", "runs", "out=page")
    assert answer["runs"] == {"evaluate": 1, "goodput": 1, "simulate": 2, "study": 1, "train": 1}
    assert answer["left_out"] == []
    assert answer["sections"] == [
        "Policies compared",
        "Simulations",
        "Studies",
        "Goodput",
        "Learning curves",
        "Runs side by side",
        "Reproduction",
    ]
    page = (folder / "page/report.html").read_text()
    assert len(list((folder / "page/figures").iterdir())) == 2 * answer["figures"]
    assert "servegym evaluate scenario=generated_8xh100" in page
    assert "servegym goodput scenario=resnet50_8gpu" in page
    metrics = json.loads((folder / "runs/jsq/metrics.json").read_text())["metrics"]
    assert f"{metrics['mean_ttft_s'] * 1e3:,.4g}" in page


def test_folders_are_words_of_their_own_and_unfinished_runs_are_listed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_simulation(folder / "a run")
    write_simulation(folder / "it's")
    (write_training(folder / "unfinished") / "finished.json").unlink()
    assert main(["report", "a run", "it's", "unfin*", "out=page", "title=About queues"]) == 0
    printed = capsys.readouterr().out
    assert "2 of simulate" in printed and "Left out: unfinished, unfinished: lacks finished.json" in printed
    page = (folder / "page/report.html").read_text()
    assert "<h1>About queues</h1>" in page and "lacks finished.json" in page


def test_a_report_replaces_an_earlier_one_and_is_none_itself(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_simulation(folder / "runs/a")
    first = answer_of(capsys, "report", "runs", "out=runs/report")
    assert answer_of(capsys, "report", "runs", "out=runs/report") == first


def test_bad_input_is_refused_before_anything_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_simulation(folder / "a")
    (folder / "empty").mkdir()
    (folder / "taken").mkdir()
    (folder / "taken/notes.txt").write_text("mine")
    assert "runs: nosuch does not exist" in error_of(capsys, "report", "a", "nosuch", "out=page")
    assert "runs: empty holds no run" in error_of(capsys, "report", "empty", "out=page")
    assert "out = taken: exists and holds something else" in error_of(capsys, "report", "a", "out=taken")
    assert "runs" in error_of(capsys, "report", "out=page")
    assert "runs = []" in error_of(capsys, "report", "runs=[]", "out=page")


def test_a_report_of_damaged_runs_only_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (write_simulation(folder / "a") / "requests.parquet").write_bytes(b"PAR1")
    answer = answer_of(capsys, "report", "a", "out=page")
    assert answer["runs"] == {} and answer["figures"] == 0
    assert answer["left_out"][0]["status"] == "damaged"
    assert answer["sections"] == ["Runs left out", "Reproduction"]
