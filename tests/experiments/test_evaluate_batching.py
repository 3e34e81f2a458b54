"""`servegym train` and `evaluate` of environments of batching; rivals: the optimum, Symphony, LoongServe."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console

from servegym.agents import smdp
from servegym.agents.deferred_batching import Frontrun
from servegym.costmodels.errors import InputError
from servegym.envs.batch_scenario import BatchScenario, load_batch_scenario
from servegym.envs.dynamic_batching.scenario import load_dynamic_batching
from servegym.envs.elastic_scenario import load_elastic_scenario
from servegym.envs.sim.batch.simulate import BatchResults
from servegym.envs.workloads.batch_workload import BatchWorkload
from servegym.experiments.evaluation import deferred_batching, dynamic_batching
from servegym.experiments.evaluation import elastic_sequence_parallel as elastic
from servegym.experiments.evaluation.goodput import largest_rate, largest_rates
from tests.experiments.commands import SHORT_TRAINING, SMALL_SCENARIO_OF, answer_of, error_of

QUEUE = ("train", *SMALL_SCENARIO_OF["servegym/DynamicBatching-v0"], "agent=ppo_queue", *SHORT_TRAINING)
GPUS = ("train", *SMALL_SCENARIO_OF["servegym/DeferredBatching-v0"], "agent=ppo_gpu_scorer", *SHORT_TRAINING)


def test_a_batching_server_is_held_against_the_optimum(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dynamic_batching, "REQUESTS", 200)
    answer_of(capsys, *QUEUE, "run_dir=run")
    answer = answer_of(capsys, "evaluate", "run_dir=run", "seeds=3")
    assert (answer["environment"], answer["steps"], answer["seeds"]) == (
        "servegym/DynamicBatching-v0",
        256,
        [0, 1, 2],
    )
    policies = answer["policies"]
    assert list(policies) == ["optimal", "ppo_queue_mlp", "work_conserving", "control_limit", "static"]
    optimal = policies.pop("optimal")
    scenario = load_dynamic_batching("inoue_v100", QUEUE[2:4])
    assert optimal["exact"]["cost"] == pytest.approx(smdp.solve(scenario).cost, rel=1e-6)
    for policy in policies.values():
        worse = policy["exact"]["cost"]
        assert worse is None or worse >= optimal["exact"]["cost"] * (1 - 1e-9)  # null: the queue grows
    table = np.array(answer["sizes"])
    exact = smdp.evaluate(scenario, table).cost
    said = policies["ppo_queue_mlp"]["exact"]["cost"]
    assert said == pytest.approx(exact) if math.isfinite(exact) else said is None
    with (folder / "run/evaluation/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 3
    message = error_of(capsys, "evaluate", "run_dir=run", "policies=[jsq]", "baseline=sal")
    assert "its rivals are set: leave out policies, baseline" in message
    assert "was not trained to route" in error_of(capsys, "evaluate", "policies=[run]")
    assert "is of queue_mlp; must be of servegym/Routing-v0" in error_of(capsys, "export", "run_dir=run")
    assert "must be one of queue_mlp" in error_of(capsys, *QUEUE[:-1], "agent.network=gnn", "run_dir=other")


@pytest.mark.compiled
def test_a_batch_scheduler_is_held_against_symphony(
    capsys: pytest.CaptureFixture[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deferred_batching, "REQUESTS", 200)
    answer_of(capsys, *GPUS, "agent.imitate_steps=128", "run_dir=run")
    answer = answer_of(capsys, "evaluate", "run_dir=run", "seeds=2")
    policies = answer["policies"]
    assert list(policies) == ["symphony", "symphony eager", "ppo_gpu_scorer"]
    for policy in policies.values():
        assert policy["bad_share"] == sorted(policy["bad_share"])  # the same requests, only closer together
    assert policies["symphony"]["gain"]["iqm"] == 0
    eager = ("policy.condition=eager", "policy.drop=timeout")
    for name, condition in (("symphony", ()), ("symphony eager", eager)):
        words = (*GPUS[1:3], "policy=symphony", *condition, "seeds=2", "requests=200", GPUS[3])
        found = answer_of(capsys, "goodput", *words)
        assert policies[name]["goodputs_rps"] == pytest.approx(found["rates_rps"], rel=0.02)


def _late_above(limit_rps: float) -> deferred_batching.Serve:
    """Serves everything in time up to some rate, and nothing above it."""

    def serve(workloads: Sequence[BatchWorkload]) -> list[BatchResults]:
        shares = [float(each.rate_rps > limit_rps) for each in workloads]
        return [cast(BatchResults, SimpleNamespace(bad_share=share)) for share in shares]

    return serve


def _compared(**limits_rps: float) -> tuple[dict[str, Any], list[deferred_batching.Row]]:
    scenario = load_batch_scenario("resnet50_8gpu", ("scenario.workload.requests=200",))
    workloads = {seed: scenario.traffic.test_workload(seed) for seed in (0, 1)}
    return deferred_batching.compare(
        {name: _late_above(limit) for name, limit in limits_rps.items()}, workloads, 1000.0
    )


def test_a_policy_without_goodput_says_why_and_is_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    reason = "more than 0.01 of the requests are bad at every rate tried, with 2 of 2 seeds"
    answer, rows = _compared(symphony=2000.0, mine=0.0)
    assert answer["policies"]["mine"]["gain"] is None and answer["policies"]["mine"]["reason"] == reason
    assert answer["policies"]["mine"]["bad_share"] == [1.0] * 5
    assert answer["policies"]["symphony"]["reason"] is None and len(rows) == 1 + 2 * 5 * 2
    answer, rows = _compared(symphony=0.0, mine=2000.0)
    mine, symphony = answer["policies"]["mine"], answer["policies"]["symphony"]
    assert mine["gain"] is None and symphony["gain"] is None and symphony["reason"] == reason
    assert mine["goodput_rps"]["iqm"] == pytest.approx(2000, rel=0.01) and mine["reason"] is None
    assert answer["rates_rps"] == [] and rows == [("policy", "rate_rps", "seed", "bad_share")]
    deferred_batching.show_deferred_batching(
        {**answer, "scenario": "some", "seeds": [0, 1]}, Console(width=100)
    )
    assert f"symphony: {reason}" in capsys.readouterr().out


def test_a_goodput_without_end_is_refused() -> None:
    with pytest.raises(InputError, match=r"goodput: 99% of the requests keep the limits even if all come at"):
        _compared(symphony=2000.0, mine=math.inf)


def test_the_rule_played_side_by_side_is_symphony() -> None:
    few = ("scenario.fleet.num_gpus=2", "scenario.workload.requests=300", "scenario.workload.rate_rps=1200")
    scenario: BatchScenario = load_batch_scenario("resnet50_8gpu", few)
    workloads = [scenario.traffic.test_workload(seed) for seed in (0, 1)]

    class Rule(Frontrun):
        def act(self, observation, masks=None):  # type: ignore[no-untyped-def]
            return super().act(observation)

    played = deferred_batching.side_by_side(Rule(), scenario, workloads)  # type: ignore[arg-type]
    serve = deferred_batching._by_scheduler(scenario)
    for mine, theirs in zip(played, serve(workloads), strict=True):
        assert np.array_equal(mine.outcome, theirs.outcome)


def test_searches_side_by_side_find_what_each_finds_alone() -> None:
    limits = np.array([3.0, 700.0, 0.0, math.inf, 41.5])
    guesses = np.array([100.0, 100.0, 100.0, 100.0, 41.0])
    found = largest_rates(lambda rates, which: rates <= limits[which], guesses, most_steps=12)
    for limit, guess, rate in zip(limits, guesses, found, strict=True):
        assert rate == largest_rate(lambda each, limit=limit: each <= limit, guess, most_steps=12)  # type: ignore[misc]
        if 0 < limit < math.inf:
            assert limit / 1.01 <= rate <= limit


ELASTIC = (
    "train",
    *SMALL_SCENARIO_OF["servegym/ElasticSequenceParallel-v0"],
    "agent=ppo_choice_scorer",
    *SHORT_TRAINING,
)


@pytest.mark.compiled
def test_an_elastic_agent_is_held_against_loongserve(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    limits = ("scenario.slo.input_s=0.05", "scenario.slo.ttft_times=1", "scenario.slo.ttft_least_s=0.5")
    answer_of(capsys, *ELASTIC, *limits, "agent.imitate_steps=128", "run_dir=run")
    answer = answer_of(capsys, "evaluate", "run_dir=run", "seeds=2")
    assert list(answer["limits"]) == ["lines", "attainment"]
    for compared in answer["limits"].values():
        policies = compared["policies"]
        assert list(policies) == [
            "loongserve",
            "first_come_first_served",
            "shortest_first",
            "gain_and_loss",
            "ppo_choice_scorer",
        ]
        assert policies["loongserve"]["gain"] is None or policies["loongserve"]["gain"]["iqm"] == 0
    words = (*ELASTIC[1:3], *limits, "policy=loongserve", "seeds=2", "requests=60")
    lines = answer_of(capsys, "goodput", *words)["lines"]
    for limit, name in (("lines", "input_s"), ("attainment", "attainment")):
        found = answer["limits"][limit]["policies"]["loongserve"]["goodputs_rps"]
        assert any(found)  # that command halves the rate more often where none is kept
        for mine, theirs in zip(found, lines[name]["rates_rps"], strict=True):
            assert not mine or mine == pytest.approx(theirs, rel=0.02)
    with (folder / "run/evaluation/results.csv").open(newline="") as file:
        assert {row["policy"] for row in csv.DictReader(file)} == {*policies}


def _served(mean: float, late: float) -> Any:
    """100 requests of one prompt token and two output tokens, so many of them late."""
    count = 100
    ttft_s = np.where(np.arange(count) < late * count, 1e3, mean)
    return SimpleNamespace(
        arrival_s=np.zeros(count),
        first_token_s=ttft_s,
        finish_s=ttft_s,
        prompt_tokens=np.ones(count, np.int64),
        output_tokens=np.full(count, 2),
        rejected=np.zeros(count, np.bool_),
        duration_s=1e3,
    )


def test_strains_are_one_where_a_limit_is_just_kept() -> None:
    scenario = load_elastic_scenario("mixed_8a800", ("scenario.slo.attainment=0.75",))
    assert elastic.of_means(_served(0.09, 0.0), scenario) == pytest.approx(1)  # TTFT a prompt token
    assert elastic.of_means(_served(0.045, 0.0), scenario) == pytest.approx(0.5)
    assert elastic.of_late(_served(0.0, 0.25), scenario) == pytest.approx(1)
    assert elastic.of_late(_served(0.0, 0.5), scenario) == pytest.approx(2)
    strict = load_elastic_scenario("mixed_8a800", ("scenario.slo.attainment=1.0",))
    assert elastic.of_late(_served(0.0, 0.0), strict) == 0
    assert elastic.of_late(_served(0.0, 0.5), strict) == math.inf


def test_limits_kept_always_or_never_are_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    scenario = load_elastic_scenario("mixed_8a800", ("scenario.workload.requests=20",))
    workloads = {seed: scenario.traffic.test_workload(seed) for seed in (0, 1)}

    def kept_up_to(limit_rps: float) -> elastic.Serve:
        return lambda asked: [_served(0.0, float(each.rate_rps > limit_rps)) for each in asked]

    serve = {
        "loongserve": kept_up_to(0.8),
        "twice": kept_up_to(1.6),
        "always": kept_up_to(math.inf),
        "never": kept_up_to(0.0),
    }
    answer, rows = elastic.compare(serve, workloads, scenario, elastic.of_late)
    policies = answer["policies"]
    assert policies["loongserve"]["goodput_rps"]["iqm"] == pytest.approx(0.8, rel=0.02)
    assert policies["twice"]["gain"]["iqm"] == pytest.approx(1.0, abs=0.03)
    assert policies["always"]["goodput_rps"] is None and policies["always"]["gain"] is None
    assert policies["always"]["reason"] == "kept at all rates tried, with 2 of 2 seeds"
    assert policies["never"]["reason"] == "kept at no rate tried, with 2 of 2 seeds"
    assert policies["never"]["gain"] is None and len(rows) == 4 * 3 * 2
    shown = {"limits": {"attainment": answer}, "scenario": "some", "seeds": [0, 1], "requests": 20}
    elastic.show_elastic_sequence_parallel(shown, Console(width=120))
    assert "never, attainment: kept at no rate tried" in capsys.readouterr().out
