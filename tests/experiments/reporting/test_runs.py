import json
from pathlib import Path

import pytest

from servegym.costmodels.errors import InputError
from servegym.experiments.reporting.gather import gather
from servegym.experiments.reporting.runs import (
    DAMAGED,
    FAILED,
    FINISHED,
    UNFINISHED,
    differing_keys,
    find_runs,
    grouped,
)
from tests.experiments.reporting.folders import (
    the_runs,
    write_evaluation,
    write_simulation,
    write_training,
)


def test_runs_are_found_by_folder_by_parent_and_by_pattern_each_once(tmp_path: Path) -> None:
    write_simulation(tmp_path / "all/deep/a")
    write_training(tmp_path / "all/b")
    write_evaluation(tmp_path / "all/b/evaluation", {"round_robin": [1, 2]})
    (tmp_path / "all/b/checkpoints/config.yaml").parent.mkdir()
    runs = find_runs([f"{tmp_path}/all", f"{tmp_path}/all/deep/*", str(tmp_path / "all/b")])
    assert [(run.path.relative_to(tmp_path / "all").as_posix(), run.kind) for run in runs] == [
        ("b", "train"),
        ("b/evaluation", "evaluate"),
        ("deep/a", "simulate"),
    ]
    assert all(run.status == FINISHED for run in runs)
    assert runs[0].record.commands == ("servegym train seed=0",)


def test_what_is_no_run_is_refused_by_name(tmp_path: Path) -> None:
    write_simulation(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"nosuch does not exist"):
        find_runs([str(tmp_path / "a"), str(tmp_path / "nosuch")])
    with pytest.raises(InputError, match=r"empty holds no run"):
        find_runs([str(tmp_path / "empty")])


def test_unfinished_and_damaged_runs_say_what_is_wrong(tmp_path: Path) -> None:
    (write_training(tmp_path / "unfinished") / "finished.json").unlink()
    (write_simulation(tmp_path / "without_metrics") / "metrics.json").unlink()
    (write_simulation(tmp_path / "bad_yaml") / "config.yaml").write_text("a: [")
    (write_simulation(tmp_path / "bad_json") / "metrics.json").write_text("{")
    (write_simulation(tmp_path / "half_parquet") / "requests.parquet").write_bytes(b"PAR1 and no more")
    (write_simulation(tmp_path / "no_scenario") / "config.yaml").write_text("seed: 1\n")
    (write_training(tmp_path / "not_numbers") / "training.csv").write_bytes(b"\xff\xfe\x00")
    (write_evaluation(tmp_path / "other_columns", {"round_robin": [1, 2]}) / "results.csv").write_text(
        "a,b\n1,2\n"
    )
    write_simulation(tmp_path / "whole")
    runs, found = gather(find_runs([str(tmp_path)]))
    by_name = {run.path.name: run for run in runs}
    assert (
        by_name["unfinished"].status == UNFINISHED and by_name["unfinished"].problem == "lacks finished.json"
    )
    assert by_name["without_metrics"].problem == "lacks metrics.json"
    assert {name for name, run in by_name.items() if run.status == DAMAGED} == {
        "without_metrics",
        "bad_yaml",
        "bad_json",
        "half_parquet",
        "no_scenario",
        "not_numbers",
        "other_columns",
    }
    assert all(run.problem for run in runs if run.status != FINISHED)
    assert [run.path.name for run, _ in found["simulate"]] == ["whole"]


def test_a_sweep_stands_for_its_runs_wherever_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_simulation(tmp_path / "runs/simulate/a", seed=3)
    sweep = tmp_path / "runs/sweeps/s"
    (sweep / "jobs").mkdir(parents=True)
    (sweep / "sweep.json").write_text(json.dumps({"command": "simulate", "words": ["seed=3,4,5"]}))
    jobs = [
        {"words": ["seed=3"], "status": "finished", "answer": {"out": "runs/simulate/a"}},
        {"words": ["seed=4"], "status": "failed", "error": "ValueError: no"},
        {
            "words": ["seed=5"],
            "status": "finished",
            "answer": {"out": "runs/gone", "metrics": {"score": 1.0}},
        },
    ]
    for number, job in enumerate(jobs):
        (sweep / f"jobs/{number:06d}.json").write_text(json.dumps(job))
    (sweep / "jobs/000003.json").write_text("{")
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)  # the folders in a sweep are relative to where it was run
    runs = the_runs(tmp_path / "runs")
    assert [(run.path.name, run.status) for run in runs] == [
        ("a", FINISHED),
        ("000001", FAILED),
        ("000002", FINISHED),
        ("000003", DAMAGED),
    ]
    assert all(run.sweep == str(sweep) for run in runs)
    assert runs[0].config["seed"] == 3 and runs[0].words == ("seed=3",)
    assert runs[1].problem == "ValueError: no"
    assert runs[2].answer["metrics"] == {"score": 1.0}


def test_runs_that_differ_in_a_seed_and_in_where_they_write_are_one_group(tmp_path: Path) -> None:
    for seed in range(3):
        for router in ("jsq", "sal"):
            write_simulation(tmp_path / f"{router}{seed}", router=router, seed=seed)
    groups = grouped(the_runs(tmp_path), "seed")
    assert sorted(len(group) for group in groups) == [3, 3]
    assert {run.config["router"]["name"] for run in groups[0]} == {groups[0][0].config["router"]["name"]}


def test_keys_that_only_follow_from_a_choice_are_no_differences() -> None:
    configs = [
        {"router.name": "a", "router.alpha": 1.0, "out": "x", "seed": 0},
        {"router.name": "b", "out": "y", "seed": 0},
        {"router.name": "a", "router.alpha": 1.0, "scheduler.name": "s", "out": "z", "seed": 1},
    ]
    assert differing_keys(configs) == ["router.name", "seed", "scheduler.name"]
