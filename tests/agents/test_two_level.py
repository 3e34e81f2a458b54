"""The rule for both levels, and whole workloads served by any policy as the environment has it."""

import numpy as np
import pytest
import torch

from servegym.agents.evaluation import route_and_schedule
from servegym.agents.networks.network_policy import NetworkPolicy
from servegym.agents.networks.two_level import TwoLevelNetwork
from servegym.agents.policy import Policy
from servegym.agents.two_level import LeastMarginalLatency
from servegym.envs.metrics import summarise
from servegym.envs.scenario import load_scenario
from servegym.envs.two_level.env import TwoLevelEnv
from servegym.experiments.evaluation.pairs import applicable_pairs

SCENARIO = load_scenario(
    "generated_8xh100",
    (
        "scenario.fleet.replicas=2",
        "scenario.engine.max_num_seqs=8",
        "scenario.workload.rate_rps=24",
        "scenario.workload.prediction_error=0.2",
        "scenario.workload.test_s=3",
        "scenario.objective.ttft_weight=0",
        "scenario.objective.latency_weight=1",
    ),
)
WORKLOADS = [SCENARIO.traffic.test_workload(seed) for seed in range(2)]


def untrained() -> Policy:
    torch.manual_seed(0)
    return NetworkPolicy(TwoLevelNetwork(8, 1))


@pytest.mark.parametrize("policy", [LeastMarginalLatency(), untrained()], ids=["rule", "network"])
def test_workloads_are_served_as_in_the_environment(policy: Policy) -> None:
    env = TwoLevelEnv(SCENARIO, split="test")
    for seed, results in enumerate(route_and_schedule(policy, SCENARIO, WORKLOADS)):
        observation, info = env.reset(seed=seed)
        while "episode_metrics" not in info:
            together = {name: np.asarray(array)[None] for name, array in observation.items()}
            observation, *_, info = env.step(int(policy.act(together)[0]))
        assert info["episode_metrics"] == summarise(results, SCENARIO.slo_limits(WORKLOADS[seed]))


@pytest.mark.compiled
def test_the_rule_is_faster_than_pairs_of_a_router_and_a_scheduler() -> None:
    latencies = [
        np.mean(each.finish_s - each.arrival_s)
        for each in route_and_schedule(LeastMarginalLatency(), SCENARIO, WORKLOADS)
    ]
    for pair in applicable_pairs(SCENARIO, ("jsq", "marginal_latency"), ("sjf",)):
        of_pair = [pair.figure(each, 0, "mean_latency_s") for each in WORKLOADS]
        assert np.mean(latencies) < np.mean(of_pair)
