"""Evaluation of suites: who plays, what is scored."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from servegym.agents.heuristics import ROUTERS
from servegym.agents.schedulers import SCHEDULERS
from servegym.envs.suites import Suite, SuiteEntry
from servegym.experiments.evaluation.contenders import configured_router
from servegym.experiments.evaluation.statistics import Values
from servegym.experiments.evaluation.suite_runs import (
    METRICS,
    Entrant,
    Played,
    entrants_of,
    play,
)
from servegym.experiments.evaluation.suite_scores import PlayedEntry, SuiteScores

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


def test_heuristics_are_all_unless_some_are_named() -> None:
    assert [each.name for each in entrants_of(None, "servegym/Routing-v0")] == list(ROUTERS)
    assert [each.name for each in entrants_of(["sal"], "servegym/Routing-v0")] == ["sal"]
    assert [each.name for each in entrants_of([], "servegym/Batching-v0")] == ["fcfs", *SCHEDULERS]
    pairs = entrants_of(None, "servegym/TwoLevel-v0")
    assert len(pairs) == len(ROUTERS) * (1 + len(SCHEDULERS))


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
