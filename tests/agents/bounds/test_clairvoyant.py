"""No simulation beats the bounds; where the optimum is known they meet it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from servegym.agents.bounds import ClairvoyantBounds, clairvoyant_bounds
from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.costmodels.iterations.cost import IterationCost
from servegym.envs.metrics import SloLimits, attains_slo, latency_s, summarise, ttft_s
from servegym.envs.scenario import load_scenario
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.simulate import Results, simulate
from servegym.envs.workloads import Workload
from tests.envs.sim.llm.test_against_reference import random_case
from tests.experiments.commands import FEW_REQUESTS

pytestmark = pytest.mark.compiled

ROUNDING = 1e-9
UNLIMITED = SloLimits(np.inf, np.inf)


def check(bounds: ClairvoyantBounds, results: Results, limits: SloLimits) -> None:
    """No bound is beaten."""
    assert ttft_s(results).mean() >= bounds.ttft_s.best * (1 - ROUNDING)
    assert latency_s(results).mean() >= bounds.latency_s.best * (1 - ROUNDING)
    assert np.count_nonzero(attains_slo(results, limits)) <= bounds.on_time
    summary = summarise(results, limits)
    assert summary["makespan_s"] >= bounds.makespan_s * (1 - ROUNDING)
    assert summary["goodput_rps"] <= bounds.goodput_rps * (1 + ROUNDING)


def random_limits(rng: np.random.Generator, results: Results) -> SloLimits:
    """Limits that some of the requests just meet: those of one of them, or of a percentile."""
    gaps = np.maximum(results.output_tokens - 1, 1)
    pace = (results.finish_s - results.first_token_s) / gaps
    percent = rng.uniform(0, 100, 2)
    return SloLimits(
        np.percentile(ttft_s(results), percent[0]), np.percentile(pace, percent[1], method="higher")
    )


def check_random_case(seed: int) -> None:
    """Any scheduler, preemption, swapping, scarce memory, costs without any structure, any decisions."""
    case = random_case(seed)
    engine = replace(case.engine, prefix_caching=False)
    decisions = iter(case.decisions)
    results = simulate(
        case.workload,
        Router("scripted", lambda *_: int(next(decisions))),
        num_replicas=case.num_replicas,
        engine=engine,
        cost=case.cost,
    )
    limits = random_limits(np.random.default_rng(seed), results)
    check(clairvoyant_bounds(case.workload, engine, case.cost, case.num_replicas, limits), results, limits)


@pytest.mark.parametrize("seed", range(40))
def test_no_random_case_beats_them(seed: int) -> None:
    check_random_case(seed)


@pytest.mark.slow
def test_no_random_case_of_many_beats_them() -> None:
    for seed in range(40, 400):
        check_random_case(seed)


@pytest.mark.parametrize("scheduler", ["vllm_v1", "sarathi", "vllm_v0", "orca", "lightllm", "sglang"])
def test_no_router_beats_them(scheduler: str) -> None:
    """On a model's real clock, at loads from light to far too much."""
    caching = ("scenario.engine.prefix_caching=false",) if scheduler == "sglang" else ()
    engine = (f"engine@scenario.engine={scheduler}", *caching)
    for rate in (20, 200):
        fleet = (f"scenario.workload.rate_rps={rate}", "scenario.fleet.replicas=2")
        scenario = load_scenario("generated_8xh100", (*engine, *fleet, *FEW_REQUESTS))
        workload = scenario.traffic.test_workload(rate)
        for name in ("jsq", "round_robin", "lowest_kv_use"):
            results = scenario.simulate(workload, make_router(name))
            limits = random_limits(np.random.default_rng(rate), results)
            check(clairvoyant_bounds(workload, scenario.engine, scenario.cost, 2, limits), results, limits)


def served(workload: Workload, engine: Engine, cost: IterationCost, num_replicas: int = 1) -> Results:
    return simulate(workload, make_router("round_robin"), num_replicas=num_replicas, engine=engine, cost=cost)


def test_one_request_takes_what_it_takes_alone() -> None:
    """A prompt of three chunks, then decodes whose attention grows."""
    cost = linear_iteration_cost(
        max_num_batched_tokens=100,
        max_num_seqs=8,
        overhead_s=0.3,
        per_token_s=0.01,
        per_kv_token_s=0.002,
        per_prefill_pair_s=0.0001,
    )
    engine, workload = Engine(100, 8, 1000), Workload("one", [3.0], [250], [40])
    bounds = clairvoyant_bounds(workload, engine, cost, 4, UNLIMITED)
    results = served(workload, engine, cost)
    assert bounds.ttft_s.alone == pytest.approx(ttft_s(results)[0], rel=1e-12)
    assert bounds.latency_s.alone == pytest.approx(latency_s(results)[0], rel=1e-12)
    assert bounds.makespan_s == pytest.approx(latency_s(results)[0], rel=1e-12)


def test_equal_requests_one_at_a_time_meet_the_pooled_bound() -> None:
    """D/1 queue: with one seat and equal works, first come first served is optimal."""
    rng = np.random.default_rng(1)
    cost = linear_iteration_cost(max_num_batched_tokens=20, max_num_seqs=1, overhead_s=0.5, per_token_s=0.02)
    workload = Workload("unit", np.cumsum(rng.exponential(1.0, 300)), np.full(300, 20), np.full(300, 1))
    engine = Engine(20, 1, 100)
    bounds = clairvoyant_bounds(workload, engine, cost, 1, UNLIMITED)
    assert bounds.latency_s.pooled == pytest.approx(
        latency_s(served(workload, engine, cost)).mean(), rel=1e-9
    )
    assert bounds.latency_s.pooled > 2 * bounds.latency_s.alone


def test_shortest_first_meets_the_pooled_bound() -> None:
    """All at once on one seat: shortest prompts first, which priorities make the engine do."""
    prompts = np.random.default_rng(2).permutation(np.arange(1, 51))
    cost = linear_iteration_cost(max_num_batched_tokens=64, max_num_seqs=1, overhead_s=0.0, per_token_s=0.1)
    engine = Engine(64, 1, 100, order="priority")
    workload = Workload("burst", np.zeros(50), prompts, np.ones(50, int), priority=prompts)
    bounds = clairvoyant_bounds(workload, engine, cost, 1, UNLIMITED)
    assert bounds.ttft_s.pooled == pytest.approx(ttft_s(served(workload, engine, cost)).mean(), rel=1e-9)
    worst = Workload("burst", np.zeros(50), prompts, np.ones(50, int), priority=-prompts)
    assert ttft_s(served(worst, engine, cost)).mean() > 1.5 * bounds.ttft_s.pooled


def test_as_many_are_on_time_as_the_fleet_has_time_for() -> None:
    """Ten requests of a second each at once, two seats in all: eight are done within four seconds."""
    cost = linear_iteration_cost(max_num_batched_tokens=10, max_num_seqs=1, overhead_s=0.0, per_token_s=0.1)
    engine = Engine(10, 1, 100)
    workload = Workload("burst", np.zeros(10), np.full(10, 10), np.ones(10, int))
    limits = SloLimits(4.0 + 1e-6, 1.0)
    assert clairvoyant_bounds(workload, engine, cost, 2, limits).on_time == 8
    assert np.count_nonzero(attains_slo(served(workload, engine, cost, 2), limits)) == 8
    assert clairvoyant_bounds(workload, engine, cost, 2, SloLimits(0.9, 1.0)).on_time == 0
    assert clairvoyant_bounds(workload, engine, cost, 2, UNLIMITED).on_time == 10


def test_two_bursts_lose_each_their_own() -> None:
    """What is lost in windows that do not overlap adds up, however long the pause between them."""
    cost = linear_iteration_cost(max_num_batched_tokens=10, max_num_seqs=1, overhead_s=0.0, per_token_s=0.1)
    workload = Workload("bursts", np.repeat([0.0, 96.0 - 4.0], 10), np.full(20, 10), np.ones(20, int))
    assert clairvoyant_bounds(workload, Engine(10, 1, 100), cost, 1, SloLimits(4.0, 1.0)).on_time <= 10


def test_pace_costs_throughput() -> None:
    """Decodes that must be quick cannot share batches: the tighter the limit, the fewer keep it."""
    engine = Engine(64, 64, 10_000)
    cost = linear_iteration_cost(
        max_num_batched_tokens=64, max_num_seqs=64, overhead_s=0.01, per_token_s=0.01
    )
    workload = Workload("burst", np.zeros(64), np.ones(64, int), np.full(64, 101))
    kept = [
        clairvoyant_bounds(workload, engine, cost, 1, SloLimits(5.0, pace)).on_time
        for pace in (0.7, 0.3, 0.1, 0.03, 0.019)
    ]
    assert kept[0] == 64 and kept[-1] == 0
    assert kept == sorted(kept, reverse=True) and len(set(kept)) == 5


def test_busy_fleets_cannot_be_as_fast_as_idle_ones() -> None:
    """A request a second with 100 decodes: batches of one would need 4 s of the replica for each."""
    engine = Engine(64, 64, 10_000)
    cost = linear_iteration_cost(
        max_num_batched_tokens=64, max_num_seqs=64, overhead_s=0.03, per_token_s=0.003
    )
    workload = Workload("steady", np.arange(400.0), np.full(400, 10), np.full(400, 101))
    bounds = clairvoyant_bounds(workload, engine, cost, 1, UNLIMITED)
    measured = latency_s(served(workload, engine, cost)).mean()
    assert bounds.latency_s.priced > 1.1 * bounds.latency_s.alone
    assert bounds.latency_s.priced > 0.9 * measured


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prefix_caching": True}, "engine.prefix_caching = true: must be false"),
        ({"max_num_batched_tokens": 65}, "IterationCost.linear_s covers 64"),
    ],
)
def test_engines_without_bounds_are_refused(change: dict[str, Any], message: str) -> None:
    cost = linear_iteration_cost(max_num_batched_tokens=64, max_num_seqs=8, overhead_s=1.0)
    engine = replace(Engine(64, 8, 100), **change)
    with pytest.raises(InputError, match=message):
        clairvoyant_bounds(Workload("one", [0.0], [1], [1]), engine, cost, 1, UNLIMITED)


def test_workloads_without_bounds_are_refused() -> None:
    cost = linear_iteration_cost(max_num_batched_tokens=64, max_num_seqs=8, overhead_s=1.0)
    with pytest.raises(InputError, match="has no requests"):
        clairvoyant_bounds(Workload("none", [], [], []), Engine(64, 8, 100), cost, 1, UNLIMITED)
    sessions = Workload("two", [0.0, 1.0], [1, 3], [1, 1], parent=[-1, 0], think_s=[0.0, 1.0])
    with pytest.raises(InputError, match="has parent"):
        clairvoyant_bounds(sessions, Engine(64, 8, 100), cost, 1, UNLIMITED)
