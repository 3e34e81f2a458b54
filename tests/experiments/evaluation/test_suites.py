"""Evaluation of suites: who plays, with what requests, what is scored, what is written."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from servegym.agents.bounds import clairvoyant_bounds
from servegym.agents.heuristics import ROUTERS
from servegym.agents.schedulers import SCHEDULERS
from servegym.costmodels.errors import InputError
from servegym.envs.metrics import summarise
from servegym.envs.suites import Suite, SuiteEntry
from servegym.experiments.configs import build_router
from servegym.experiments.evaluation import suite_runs
from servegym.experiments.evaluation.contenders import Contender, configured_router
from servegym.experiments.evaluation.statistics import Values
from servegym.experiments.evaluation.suite_files import FILES, write_suite
from servegym.experiments.evaluation.suite_runs import (
    METRICS,
    Entrant,
    NotPlayed,
    Played,
    entrants_of,
    play,
)
from servegym.experiments.evaluation.suite_scores import PlayedEntry, SuiteScores
from servegym.experiments.evaluation.suites import evaluate_suite, show_suite

pytestmark = pytest.mark.compiled  # the bounds

FEW = ("workload.test_s=20", "workload.rate_rps=22", "fleet.replicas=2")  # about 100 requests
TOY = Suite(
    "toy",
    3,
    "servegym/Routing-v0",
    "mean_latency_s",
    {
        "plain": SuiteEntry("generated_8xh100", "two replicas", [*FEW]),
        "foretold": SuiteEntry(
            "generated_8xh100", "told", [*FEW, "workload.predictor=exact"], True, "mean_ttft_s"
        ),
    },
)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The answer and the folder of an evaluation of TOY."""
    out = tmp_path_factory.mktemp("suite") / "out"
    return evaluate_suite(TOY, ["jsq", "random", "llm_d"], [4, 0, 2], out, "servegym evaluate ..."), out


def test_every_policy_serves_the_same_requests_as_simulated_alone(toy: tuple[dict[str, Any], Path]) -> None:
    """Figures of scores.csv are those of the test workloads, simulated once more."""
    answer, out = toy
    scenario = TOY.build("plain")
    found = {
        (each["scenario"], each["policy"], int(each["seed"])): each for each in rows_of(out / "scores.csv")
    }
    for name in ("jsq", "random"):
        router = configured_router(name, scenario)
        due = [
            summarise(scenario.simulate(scenario.traffic.test_workload(seed), router, seed=seed))
            for seed in (4, 0, 2)
        ]
        for seed, summary in zip((4, 0, 2), due, strict=True):
            for metric in ("mean_latency_s", "p99_ttft_s"):
                assert float(found["plain", name, seed][metric]) == pytest.approx(summary[metric], rel=1e-5)
        mean = np.mean([summary["mean_latency_s"] for summary in due])
        assert answer["scenarios"]["plain"]["means"][name] == pytest.approx(mean)


def test_scores_are_over_the_best_heuristics_mean(toy: tuple[dict[str, Any], Path]) -> None:
    """Each entry by its own metric."""
    answer, out = toy
    for name, metric in (("plain", "mean_latency_s"), ("foretold", "mean_ttft_s")):
        assert answer["scenarios"][name]["metric"] == metric
        rows = [each for each in rows_of(out / "scores.csv") if each["scenario"] == name]
        best = answer["scenarios"][name]["best_heuristic"]
        least = np.mean([float(each[metric]) for each in rows if each["policy"] == best])
        for each in rows:
            assert float(each["score"]) == pytest.approx(float(each[metric]) / least, rel=1e-4)


def test_who_does_not_play_is_said(toy: tuple[dict[str, Any], Path]) -> None:
    answer, out = toy
    assert [(each["policy"], each["scenario"], each["status"]) for each in answer["not_played"]] == [
        ("llm_d", "plain", "does not apply"),
        ("llm_d", "foretold", "does not apply"),
    ]
    assert "llm_d" not in answer["policies"]
    assert "llm_d does not apply to 2 of 2 scenarios: router llm_d needs an engine with a prefix cache" in (
        (out / "summary.md").read_text()
    )


def test_the_bound_is_the_clairvoyant_one(toy: tuple[dict[str, Any], Path]) -> None:
    answer, _ = toy
    scenario = TOY.build("foretold")
    bounds = [
        clairvoyant_bounds(
            workload, scenario.engine, scenario.cost, scenario.num_replicas, scenario.slo_limits(workload)
        ).ttft_s.best
        for workload in map(scenario.traffic.test_workload, (4, 0, 2))
    ]
    assert answer["scenarios"]["foretold"]["bound"] == pytest.approx(np.mean(bounds))


def test_files(toy: tuple[dict[str, Any], Path]) -> None:
    answer, out = toy
    assert {path.name for path in out.iterdir()} == set(FILES)
    origin = json.loads((out / "provenance.json").read_text())
    assert (origin["suite"], origin["version"], origin["seeds"]) == ("toy", 3, [4, 0, 2])
    assert origin["workload_sources"]["plain"].startswith("generator fitted to")
    assert "numpy" in origin["versions"]
    summary = {each["policy"]: each for each in rows_of(out / "summary.csv")}
    for name, found in answer["policies"].items():
        assert float(summary[name]["score"]) == pytest.approx(found["iqm"], rel=1e-5)
    assert len(rows_of(out / "comparisons.csv")) == 1  # the best of two against the other
    console = Console(width=120, record=True)
    show_suite(answer, console)
    shown = console.export_text()
    assert "jsq" in shown
    assert "toy, version 3" in shown


def test_policies_that_cannot_be_read_stop_all_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    for name, message in (
        ("jsqq", "jsqq: must be one of random"),
        (str(tmp_path / "run*"), r"run\*: no folder matches"),
        (str(tmp_path / "half"), "half is incomplete: missing config.yaml"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate_suite(TOY, [name], [0, 1], tmp_path / "out", "")
    with pytest.raises(InputError, match="jsq is given twice"):
        entrants_of(["jsq", "jsq"], TOY.environment)
    assert not (tmp_path / "out").exists()


def test_heuristics_are_all_unless_some_are_named() -> None:
    assert [each.name for each in entrants_of(None, "servegym/Routing-v0")] == list(ROUTERS)
    assert [each.name for each in entrants_of(["sal"], "servegym/Routing-v0")] == ["sal"]
    assert [each.name for each in entrants_of([], "servegym/Batching-v0")] == ["fcfs", *SCHEDULERS]
    pairs = entrants_of(None, "servegym/TwoLevel-v0")
    assert len(pairs) == len(ROUTERS) * (1 + len(SCHEDULERS))


def test_training_seeds_of_one_agent_are_one_policy(tmp_path: Path) -> None:
    for seed in (10, 2):
        folder = tmp_path / f"gnn-seed{seed}"
        folder.mkdir()
        (folder / "policy.json").write_text("{}")
    pattern = str(tmp_path / "gnn-seed*")
    with pytest.raises(InputError, match=r"gnn-seed10/policy.json: schema_version = None"):
        entrants_of([pattern], TOY.environment)


class Slower:
    """In place of `contender`: jsq, and runs named by what they stretch its latencies by."""

    def __init__(self, name: str, kind: str, scenario: Any) -> None:
        self.scenario, self.factor = scenario, 1.0 if name == "jsq" else float(name)

    def serve(self, workloads: Any, seeds: Any) -> list[Any]:
        if self.factor < 0:
            raise ValueError("action 7 is not legal")
        router = build_router({"name": "jsq"}, self.scenario)
        served = [self.scenario.simulate(workload, router, seed=0) for workload in workloads]
        for each in served:
            each.finish_s[:] = each.arrival_s + self.factor * (each.finish_s - each.arrival_s)
        return served


def test_runs_of_an_agent_and_failures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Scores know training runs and test seeds apart; a failure is told and never averaged."""

    def stretched(name: str, kind: str, scenario: Any) -> Contender:
        return Contender(name, "", Slower(name, kind, scenario).serve)

    monkeypatch.setattr(suite_runs, "contender", stretched)
    seeds = [0, 1, 2]
    entrants = [
        Entrant("jsq", ("jsq",), "router"),
        Entrant("agent", ("0.9", "0.8"), "run"),
        Entrant("broken", ("-1",), "run"),
    ]
    entries = {}
    for name in TOY.entries:
        scenario = TOY.build(name)
        workloads = [scenario.traffic.test_workload(seed) for seed in seeds]
        played = {each.name: play(each, scenario, workloads, seeds, "mean_latency_s") for each in entrants}
        assert played["broken"] == NotPlayed("failed", "action 7 is not legal")
        entries[name] = PlayedEntry("mean_latency_s", played, "not asked for")
    scores = SuiteScores(seeds, entrants, entries)
    found = scores.scores("agent", ["plain", "foretold"])
    assert found.shape == (2, 2, 3)
    for entry in range(2):
        np.testing.assert_allclose(found[entry].mean(axis=1), [0.9, 0.8])
    assert "broken" not in scores.aggregates
    standing = scores.standings["plain"]["agent"]
    assert (standing.verdict, np.isnan(standing.gap_closed)) == ("better", True)
    assert standing.change == pytest.approx((np.sqrt(0.72) - 1, -0.2, -0.1), abs=0.03)
    (comparison,) = scores.comparisons
    assert (comparison.policy, comparison.against, comparison.scenarios) == ("agent", "jsq", 2)
    write_suite(tmp_path / "out", TOY, scores, {}, "")
    page = (tmp_path / "out" / "summary.md").read_text()
    assert "**broken failed on plain**: action 7 is not legal" in page
    assert "not asked for" in page
    runs = {each["run"] for each in rows_of(tmp_path / "out" / "scores.csv") if each["policy"] == "agent"}
    assert runs == {"0.9", "0.8"}


def made_up(metric: dict[str, dict[str, Values]], bound: dict[str, Values]) -> SuiteScores:
    """Scores of policies whose metric is given, by entry and policy; `learnt` is the learned one."""
    entrants = [Entrant(name, (name,), "run" if name == "learnt" else "router") for name in metric["a"]]
    entries = {
        entry: PlayedEntry(
            "mean_latency_s",
            {name: Played(dict.fromkeys(METRICS, values[None]), {}) for name, values in found.items()},
            bound[entry],
        )
        for entry, found in metric.items()
    }
    return SuiteScores([0, 1, 2, 3], entrants, entries)


def test_gap_to_the_bound_and_aggregates() -> None:
    ones = np.ones(4)
    scores = made_up(
        {
            "a": {"good": 2.0 * ones, "bad": 3.0 * ones, "learnt": 1.25 * ones},
            "b": {"good": 5.0 * ones, "bad": 4.0 * ones, "learnt": 4.04 * ones},
        },
        {"a": np.array([1.0, 1.0]), "b": np.array([2.0, 2.0])},
    )
    assert scores.best == {"a": "good", "b": "bad"}
    assert scores.standings["a"]["learnt"].gap_closed == pytest.approx(0.75)
    assert scores.standings["b"]["learnt"].gap_closed == pytest.approx(-0.02)
    assert scores.standings["b"]["learnt"].verdict == "worse"
    assert scores.standings["b"]["bad"].gap_closed == 0
    assert scores.aggregates["learnt"].iqm == pytest.approx((0.625 + 1.01) / 2)
    assert scores.ranking == ["learnt", "good", "bad"]
    improvement = {each.against: each.improvement.share for each in scores.comparisons}
    assert improvement == {"good": 1.0, "bad": 0.5}


def test_slo_classes_and_waits() -> None:
    """By hand from the requests of each class."""
    classes = [
        {"name": "chat", "share": 0.5, "ttft_s": 0.05},
        {"name": "batch", "share": 0.5, "ttft_s": 5.0},
    ]
    text = json.dumps(classes).replace('"', "")
    suite = Suite(**{**asdict(TOY), "entries": {"classes": SuiteEntry(
        "generated_8xh100", "", [*FEW, f"workload.clients.slo_classes={text}"]
    )}})  # fmt: skip
    scenario = suite.build("classes")
    workloads = [scenario.traffic.test_workload(seed) for seed in (0, 1)]
    found = play(Entrant("jsq", ("jsq",), "router"), scenario, workloads, (0, 1), "mean_latency_s")
    assert isinstance(found, Played)
    router = configured_router("jsq", scenario)
    shares, waits = [], []
    for seed, workload in enumerate(workloads):
        served = scenario.simulate(workload, router, seed=seed)
        own = workload.slo_class == 0
        shares.append(np.mean((served.first_token_s - served.arrival_s)[own] <= 0.05))
        waits.append((served.scheduled_s - served.arrival_s).max())
    assert found.classes["chat"]["slo_attainment"] == pytest.approx(np.mean(shares))
    assert 0 < found.classes["chat"]["slo_attainment"] < found.classes["batch"]["slo_attainment"]
    np.testing.assert_allclose(found.metrics["longest_wait_s"][0], waits)
    assert (found.metrics["finished_share"] == 1).all()
