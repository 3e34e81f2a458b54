"""Marginal costs are the differences between whole simulations."""

from dataclasses import replace

import numpy as np
import pytest

from servegym.envs.routing.counterfactual import marginal_costs, prescribed
from servegym.envs.scenario import Scenario, load_scenario
from servegym.envs.workloads import Workload

EQUAL = ("generated_8xh100", ("scenario.fleet.replicas=3", "scenario.workload.rate_rps=45"))
MIXED = (
    "mixed_4xh100_4xa100",
    (
        "scenario.workload.trace=null",
        "scenario.fleet.pools.0.replicas=1",
        "scenario.fleet.pools.1.replicas=2",
        "scenario.workload.rate_rps=25",
    ),
)


GIVING_UP = (
    "generated_8xh100",
    (
        "scenario.fleet.replicas=3",
        "scenario.workload.rate_rps=45",
        "scenario.workload.clients.cancel_share=0.3",
        "scenario.workload.clients.mean_patience_s=3",
    ),
)


def scenario_with(name: str, overrides: tuple[str, ...], **weights: float) -> Scenario:
    scenario = load_scenario(name, (*overrides, "scenario.episode.requests=200"))
    objective = replace(scenario.objective, **weights)
    scenario.objective = objective
    return scenario


def total(scenario: Scenario, workload: Workload, replicas: np.ndarray) -> float:
    results = scenario.simulate(workload, prescribed(replicas))
    objective = scenario.objective
    end_s = np.fmin(results.finish_s, np.where(np.isfinite(results.finish_s), np.inf, results.cancelled_s))
    first_s = np.where(np.isfinite(results.first_token_s), results.first_token_s, end_s)
    ttft, latency = first_s - results.arrival_s, end_s - results.arrival_s
    return float((objective.ttft_weight * ttft + objective.latency_weight * latency).sum())


@pytest.mark.compiled
@pytest.mark.parametrize("which", [EQUAL, MIXED, GIVING_UP], ids=["equal", "mixed", "giving up"])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.5, 2.0)], ids=["ttft", "both"])
def test_one_question_is_the_difference_of_two_simulations(
    which: tuple[str, tuple[str, ...]], weights: tuple[float, float]
) -> None:
    scenario = scenario_with(*which, ttft_weight=weights[0], latency_weight=weights[1])
    workload = scenario.traffic.train_workload(np.random.SeedSequence(0))
    replicas = np.random.default_rng(1).integers(scenario.num_replicas, size=workload.num_requests)
    found = marginal_costs(scenario, workload, replicas, np.random.default_rng(2), rounds=4, spacing_s=1e3)
    assert len(found.requests) > 0
    for request, costs in zip(found.requests.tolist(), found.costs, strict=True):
        totals = []
        for replica in range(scenario.num_replicas):
            elsewhere = replicas.copy()
            elsewhere[request] = replica
            totals.append(total(scenario, workload, elsewhere))
        differences = np.array(totals) - totals[replicas[request]]
        np.testing.assert_allclose(costs - costs[replicas[request]], differences, atol=1e-6)


@pytest.mark.compiled
def test_questions_far_apart_do_not_disturb_each_other() -> None:
    scenario = scenario_with(EQUAL[0], (*EQUAL[1], "scenario.workload.rate_rps=6"))
    workload = scenario.traffic.train_workload(np.random.SeedSequence(0))
    replicas = np.arange(workload.num_requests) % 3
    several = marginal_costs(scenario, workload, replicas, np.random.default_rng(3), rounds=1, spacing_s=15.0)
    assert len(several.requests) > 1
    for request, costs in zip(several.requests.tolist(), several.costs, strict=True):
        totals = []
        for replica in range(3):
            elsewhere = replicas.copy()
            elsewhere[request] = replica
            totals.append(total(scenario, workload, elsewhere))
        np.testing.assert_allclose(costs - costs.min(), np.array(totals) - min(totals), atol=1e-3)


@pytest.mark.compiled
def test_equal_replicas_cost_one_request_the_same() -> None:
    scenario = scenario_with(*EQUAL, ttft_weight=1.0, latency_weight=1.0)
    workload = scenario.traffic.train_workload(np.random.SeedSequence(0)).take(slice(1))
    found = marginal_costs(
        scenario, workload, np.zeros(1, np.int64), np.random.default_rng(0), rounds=2, spacing_s=10.0
    )
    assert found.requests.tolist() == [0, 0]
    np.testing.assert_array_equal(found.costs, found.costs[0, 0])
