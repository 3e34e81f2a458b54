"""The committed suites: what they promise, and that they are frozen."""

import hashlib
import json
from dataclasses import asdict
from functools import cache

import gymnasium as gym
import numpy as np
import pytest

import servegym.envs  # noqa: F401  (registers the environments)
from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.envs.metrics import summarise
from servegym.envs.scenario import load_scenario
from servegym.envs.scenario.config import ScenarioConfig
from servegym.envs.suites import Suite, SuiteEntry, load_suite

NAMES = ("routing", "batching", "two_level")
SUITES = {name: load_suite(name) for name in NAMES}
FROZEN = {
    ("routing", 2): "efb557a4de68fcb3",
    ("batching", 1): "9ea5c2ac4a4d89a6",
    ("two_level", 1): "46e6a0beef975e92",
}
"""First digits of the digest of a suite's entries, by name and version. A new version is a new line."""


@cache
def config_of(name: str, entry: str) -> ScenarioConfig:
    """Composing takes its time."""
    return SUITES[name].config(entry)


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_entry_is_a_new_version(name: str) -> None:
    suite = SUITES[name]
    entries = {
        entry: {key: value for key, value in asdict(content).items() if key != "why"}
        for entry, content in suite.entries.items()
    }
    digest = hashlib.sha256(json.dumps([entries, suite.metric], sort_keys=True).encode()).hexdigest()
    assert FROZEN.get((name, suite.version)) == digest[:16]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_suite_promises(name: str) -> None:
    suite = SUITES[name]
    assert suite.environment in gym.registry
    assert len(suite.entries) >= 8
    assert set(suite.practice).isdisjoint(suite.entries)
    assert not set(suite.entries) <= set(suite.training)  # something is never trained on
    assert all(entry.why for entry in suite.entries.values())


@pytest.mark.parametrize("name, entry", [(name, entry) for name in NAMES for entry in SUITES[name].entries])
def test_entries_compose_and_weigh_what_they_are_judged_by(name: str, entry: str) -> None:
    config, metric = config_of(name, entry), SUITES[name].metric_of(entry)
    assert config.name == entry
    weights = {"mean_latency_s": (0.0, 1.0), "mean_ttft_s": (1.0, 0.0)}[metric]
    assert (config.objective.ttft_weight, config.objective.latency_weight) == weights


def test_all_entries_hold_out_the_same_part_of_a_trace() -> None:
    held_out: dict[str, set[float]] = {}
    for name, suite in SUITES.items():
        for entry in suite.entries | suite.practice:
            workload = config_of(name, entry).workload
            if workload.trace is not None:
                held_out.setdefault(workload.trace, set()).add(workload.test_s)
    assert held_out  # the Azure trace at least
    assert all(len(windows) == 1 for windows in held_out.values())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_only_tested_is_a_kind_of_its_own(name: str) -> None:
    """In lengths, in the number of replicas or in the clock of their iterations."""
    suite = SUITES[name]

    def kind(entry: str) -> tuple[object, ...]:
        config = config_of(name, entry)
        workload, fleet = config.workload, config.fleet
        clock = (fleet.gpu, str(fleet.pools), config.costmodel.kind)
        return workload.trace or workload.fitted, fleet.replicas, *clock

    trained_on = {kind(entry) for entry in suite.training}
    assert not trained_on & {kind(entry) for entry in set(suite.entries) - set(suite.training)}


@pytest.mark.parametrize("name", ["batching", "two_level"])
def test_environments_that_schedule_get_plain_fleets(name: str) -> None:
    suite = SUITES[name]
    for entry in suite.entries:
        suite.build(entry).require_plain(name)


def test_metrics_are_of_a_summary_and_less_is_better() -> None:
    small = load_scenario("generated_8xh100", ("scenario.fleet.replicas=2",))
    workload = small.traffic.test_workload(0).take(np.arange(200))
    fast, slow = (
        summarise(small.simulate(workload.scale_rate(factor), make_router("jsq"))) for factor in (0.1, 10.0)
    )
    for name in NAMES:
        suite = SUITES[name]
        for metric in {suite.metric_of(entry) for entry in suite.entries}:
            assert fast[metric] < slow[metric]


def test_an_override_may_add_a_key_and_mistakes_are_named() -> None:
    entry = SuiteEntry(
        "generated_8xh100",
        "rough order",
        ["workload.predictor=ranked", "+workload.predictor_parameters.kendall_tau=0.6"],
    )
    suite = Suite("mine", 1, "servegym/Routing-v0", "mean_latency_s", {"ranked": entry})
    assert suite.config("ranked").workload.predictor_parameters == {"kendall_tau": 0.6}
    with pytest.raises(InputError, match="suite mine: rank: must be one of ranked"):
        suite.config("rank")
    with pytest.raises(InputError, match="suite.*: must be one of batching, claims, routing, two_level"):
        load_suite("nosuch")
