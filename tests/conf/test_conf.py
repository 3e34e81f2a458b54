"""Every YAML file under conf/ is composed, instantiated and stepped."""

import inspect
import re
from collections.abc import Callable
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from servegym.agents.batch_schedulers import AUTOSCALERS, BATCH_SCHEDULERS
from servegym.agents.elastic_managers import MANAGERS
from servegym.agents.elastic_systems import RIVALS
from servegym.agents.heuristics import REBALANCERS, ROUTERS, make_router
from servegym.agents.learners.algorithms import ALGORITHMS
from servegym.agents.learners.families import family_of
from servegym.agents.networks.build import build_network
from servegym.agents.schedulers import SCHEDULERS, make_scheduler
from servegym.costmodels.errors import InputError
from servegym.envs.metrics import summarise
from servegym.envs.routing.env import RoutingEnv
from servegym.envs.scenario import load_scenario
from servegym.envs.scenario.compose import compose_scenario, list_group, list_scenarios
from servegym.envs.scenario.config import ScenarioConfig
from servegym.envs.two_level.env import TwoLevelEnv
from servegym.experiments.cli import COMMANDS
from servegym.experiments.configs import FROM_BATCH_SCENARIO, FROM_SCENARIO
from servegym.experiments.hydra_app import OF_KIND
from servegym.experiments.run_directory import load_run_config, load_run_policy
from tests.experiments.commands import (
    FEW_REQUESTS,
    SHORT_TRAINING_OF,
    SMALL_SCENARIO,
    SMALL_SCENARIO_OF,
    answer_of,
    error_of,
)

CONF = Path(str(files("servegym.conf") / "train.yaml")).parent
PARTS = ("workload", "fleet", "engine", "costmodel", "objective")
TRACE_NEEDED = {"mooncake_conv_8xh100": "traces/mooncake_fast25/conversation_trace.jsonl.gz"}
"""Scenarios of traces for which no generator stands in."""

SCENARIO_WITH = {
    "roles": ("scenario=disaggregated_4p4d", "scenario.workload.rate_rps=30", *FEW_REQUESTS),
    "prefix_caching": (*SMALL_SCENARIO, "scenario.engine.prefix_caching=true"),
    "sessions": ("scenario=sessions_8xh100", "scenario.workload.rate_rps=20", *FEW_REQUESTS),
}
"""For routers that need something that generated requests can have."""

GIVES = {
    "predictions": "scenario.workload.predictor=exact",
    "priorities": "scenario.workload.clients.priority_shares=[0.5,0.5]",
    "slo_classes": "scenario.workload.clients.slo_classes=[{name:a,share:1.0,ttft_s:1.0,tpot_s:0.1}]",
    "tenants": "scenario.workload.clients.tenant_shares=[0.5,0.5]",
}
"""What a scheduler may need of the workload, and the key that gives it."""

FEW = ("scenario.episode.requests=8", "scenario.workload.test_s=20")


def yaml_of(group: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((CONF / group / f"{name}.yaml").read_text())
    content.pop("defaults", None)
    return content


def play(*overrides: str, scenario: str = "generated_8xh100") -> RoutingEnv:
    """Plays one short training episode through, and checks its accounts."""
    built = load_scenario(scenario, (*FEW, *overrides))
    env = RoutingEnv(built)
    env.reset(seed=0)
    total, terminated, decisions = 0.0, False, 0
    while not terminated:
        _, reward, terminated, _, info = env.step(np.int64(decisions % built.num_replicas))
        total += reward
        decisions += 1
    metrics, objective = info["episode_metrics"], built.objective
    cost_s = (
        objective.ttft_weight * metrics["mean_ttft_s"] + objective.latency_weight * metrics["mean_latency_s"]
    )
    assert decisions == metrics["num_requests"] == 8
    assert -total == pytest.approx(8 * cost_s)
    return env


def test_no_file_is_left_out() -> None:
    groups = {path.name for path in CONF.iterdir() if path.is_dir() and path.name != "__pycache__"}
    policies = {"router", "scheduler", "rebalancer", "batch_scheduler", "autoscaler", "elastic_system"}
    elsewhere = {"tracking", "launcher", "sweeper"}  # tests/experiments/tracking, and studies/test_sweep.py
    assert groups == {"scenario", "suite", "agent", *policies, *PARTS, *elsewhere}
    assert list_group("rebalancer") == list(REBALANCERS)  # run by tests/experiments/test_rebalancer.py
    # The commands' own files are run by the tests of the commands.
    commands = {*COMMANDS, *OF_KIND.values()} - {"list"}
    assert {path.stem for path in CONF.glob("*.yaml")} == {"hydra_quiet", *commands}


@pytest.mark.parametrize("name", list_scenarios(ScenarioConfig))
def test_scenario(request: pytest.FixtureRequest, name: str) -> None:
    if name in TRACE_NEEDED:
        request.getfixturevalue("real_data")(TRACE_NEEDED[name])
    else:
        request.getfixturevalue("folder")
    fleet = yaml_of("scenario", name)["fleet"]
    scenario = load_scenario(name, FEW)
    assert scenario.name == name
    assert scenario.num_replicas == fleet.get(
        "replicas", sum(pool["replicas"] for pool in fleet.get("pools", []))
    )
    if scenario.is_plain:
        play(scenario=name)
        return
    with pytest.raises(InputError, match=re.escape(str(scenario.extra))):
        TwoLevelEnv(scenario)
    workload = scenario.traffic.test_workload(0)
    results = scenario.simulate(workload, make_router("jsq"))
    assert set(results.replica) <= set(range(scenario.num_replicas))
    assert summarise(results, scenario.slo_limits(workload))["slo_attainment"] > 0.5


@pytest.mark.parametrize("group, name", [(group, name) for group in PARTS for name in list_group(group)])
def test_part_of_a_scenario(folder: Path, group: str, name: str) -> None:
    choice = f"{group}@scenario.{group}={name}"
    part = getattr(compose_scenario("generated_8xh100", (choice,)), group)
    for key, value in yaml_of(group, name).items():
        assert getattr(part, key) == value
    if name != "mooncake_conversation":  # its scenario's test needs the trace
        play(choice)


@pytest.mark.parametrize("name", list_group("router"))
def test_router(capsys: pytest.CaptureFixture[str], folder: Path, name: str) -> None:
    need = min(make_router(name).needs, default=None)
    if need == "prefixes":  # only traces have them
        assert f"router {name} needs" in error_of(capsys, "simulate", *SMALL_SCENARIO, f"router={name}")
        return
    words = SCENARIO_WITH[need] if need else SMALL_SCENARIO
    answer = answer_of(capsys, "simulate", *words, f"router={name}")
    assert answer["router"]["name"] == name
    assert set(answer["router"]) == set(yaml_of("router", name))
    assert answer["metrics"]["num_requests"] > 50


def test_there_is_a_file_for_every_router() -> None:
    assert list_group("router") == sorted(ROUTERS)


@pytest.mark.parametrize("name", list_group("scheduler"))
def test_scheduler(capsys: pytest.CaptureFixture[str], folder: Path, name: str) -> None:
    words = [*SMALL_SCENARIO, *(GIVES[need] for need in make_scheduler(name).needs)]
    answer = answer_of(capsys, "simulate", *words, f"scheduler={name}")
    assert answer["scheduler"]["name"] == name
    assert set(answer["scheduler"]) == set(yaml_of("scheduler", name))
    assert answer["metrics"]["num_finished"] == answer["metrics"]["num_requests"] > 50


@pytest.mark.parametrize(
    "group, makers",
    [
        ("scheduler", SCHEDULERS),
        ("batch_scheduler", BATCH_SCHEDULERS),
        ("autoscaler", AUTOSCALERS),
        ("elastic_system", {**MANAGERS, **RIVALS}),
    ],
)
def test_there_is_a_file_for_every_scheduler(group: str, makers: dict[str, Callable[..., Any]]) -> None:
    """With the defaults of the code, but for what refers to the scenario."""
    assert list_group(group) == sorted(makers)
    for name, make in makers.items():
        given = {key: value for key, value in yaml_of(group, name).items() if key != "name"}
        parameters = inspect.signature(make).parameters
        of_scenario = {*FROM_SCENARIO, *FROM_BATCH_SCENARIO}
        defaults = {key: each.default for key, each in parameters.items() if key not in of_scenario}
        assert given.keys() == defaults.keys()
        for key, value in given.items():
            default = list(defaults[key]) if isinstance(defaults[key], tuple) else defaults[key]
            assert str(value).startswith("${") or value == default


@pytest.mark.parametrize("name", list_group("batch_scheduler"))
def test_batch_scheduler(capsys: pytest.CaptureFixture[str], folder: Path, name: str) -> None:
    words = ("scenario=resnet50_8gpu", "scenario.fleet.num_gpus=2", "requests=50", "seeds=1", "tolerance=0.1")
    answer = answer_of(capsys, "goodput", *words, f"policy={name}", "bad_share=0.2")
    assert answer["policy"] == yaml_of("batch_scheduler", name)
    assert answer["goodput_rps"] > 200


@pytest.mark.compiled
@pytest.mark.parametrize("name", list_group("elastic_system"))
def test_elastic_system(capsys: pytest.CaptureFixture[str], folder: Path, name: str) -> None:
    words = ("scenario=sharegpt_8a800", "scenario.workload.requests=40", f"policy={name}")
    answer = answer_of(capsys, "simulate", *words)
    assert answer["policy"].keys() == yaml_of("elastic_system", name).keys()
    assert answer["metrics"]["num_finished"] == 40


@pytest.mark.parametrize("name", list_group("agent"))
def test_agent(capsys: pytest.CaptureFixture[str], folder: Path, name: str) -> None:
    written = yaml_of("agent", name)
    scenario = SMALL_SCENARIO_OF[family_of(written["network"]).environment]
    short = SHORT_TRAINING_OF[written["algorithm"]]
    answer = answer_of(capsys, "train", *scenario, f"agent={name}", *short, "run_dir=run")
    assert answer["steps"] == 256
    agent = load_run_config(Path("run")).agent
    defaults = asdict(ALGORITHMS[written["algorithm"]].config(network=written["network"]))
    if family_of(written["network"]).level == "router":
        assert written == defaults  # tuned in one place, told in both
    assert written.keys() == defaults.keys()
    shortened = {word.partition("=")[0].removeprefix("agent.") for word in short}
    assert {key: getattr(agent, key) for key in set(written) - shortened} == {
        key: value for key, value in written.items() if key not in shortened
    }
    policy, _ = load_run_policy(Path("run"))
    assert type(policy.network) is type(build_network(written["network"], 3, 8, 2))
