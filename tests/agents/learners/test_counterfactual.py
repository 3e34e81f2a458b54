"""Learning from counterfactual costs: a better policy than at first, the same again, and on after a kill."""

from pathlib import Path

import numpy as np
import pytest
import torch

from servegym.agents.evaluation import route
from servegym.agents.learners.algorithms import algorithm_of
from servegym.agents.learners.config import CounterfactualConfig
from servegym.agents.learners.counterfactual import Counterfactual
from servegym.agents.learners.training import resume, train
from servegym.agents.learners.vec_env import SB3VecEnv
from servegym.agents.networks.network_policy import NetworkPolicy
from servegym.costmodels.errors import InputError
from servegym.envs.routing.vector import RoutingVectorEnv
from servegym.envs.scenario import load_scenario
from servegym.envs.suite_vector import SuiteVectorEnv
from tests.agents.learners.test_ppo import StopAt, weights

pytestmark = pytest.mark.compiled

CONFIG = CounterfactualConfig(
    hidden=16,
    layers=1,
    n_steps=100,
    gradient_steps=20,
    batch_size=128,
    rounds=10,
    spacing_s=10.0,
    memory_size=4000,
)
UPDATE = 400
"""Decisions of an update: 4 environments times 100 steps."""

SCENARIOS = [
    load_scenario(
        "generated_8xh100",
        (
            f"scenario.fleet.replicas={replicas}",
            f"scenario.workload.rate_rps={15 * replicas}",
            "scenario.episode.requests=200",
            "scenario.objective.ttft_weight=0.0",
            "scenario.objective.latency_weight=1.0",
        ),
    )
    for replicas in (2, 3)
]


def env() -> SB3VecEnv:
    return SB3VecEnv(SuiteVectorEnv([RoutingVectorEnv(2, each, slots=3) for each in SCENARIOS]))


def built(seed: int = 0) -> Counterfactual:
    model = algorithm_of(CONFIG).build(CONFIG, env(), seed, None)
    assert isinstance(model, Counterfactual)
    torch.nn.init.zeros_(model.policy.network.prior_weights)  # no help from forecasts at the start
    return model


def mean_latency_s(model: Counterfactual) -> float:
    scenario = SCENARIOS[1]
    workloads = [scenario.traffic.train_workload(np.random.SeedSequence(seed)) for seed in (100, 101)]
    results = route(NetworkPolicy(model.policy.network, "learnt"), scenario, workloads)
    return float(np.mean([(each.finish_s - each.arrival_s).mean() for each in results]))


def test_learns_to_route(tmp_path: Path) -> None:
    model = built()
    torch.nn.init.normal_(model.policy.network.score.weight, std=3.0)  # some rule, and not a good one
    before = mean_latency_s(model)
    train(model, 20 * UPDATE, tmp_path)
    assert mean_latency_s(model) < 0.97 * before


def test_same_seed_same_weights(tmp_path: Path) -> None:
    runs = [weights(train(built(seed), 4 * UPDATE, tmp_path / str(n))) for n, seed in enumerate((0, 0, 1))]  # type: ignore[arg-type]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not all(torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_a_resumed_run_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    model = built()
    with pytest.raises(InterruptedError):
        train(model, 8 * UPDATE, tmp_path, [StopAt(5 * UPDATE + 50)], checkpoint_steps=2 * UPDATE)
    resumed = resume(tmp_path, env(), algorithm=Counterfactual)
    assert isinstance(resumed, Counterfactual)
    assert resumed.num_timesteps == 8 * UPDATE
    assert resumed.config == CONFIG
    whole = weights(train(built(), 8 * UPDATE, tmp_path / "whole"))  # type: ignore[arg-type]
    assert all(torch.equal(weights(resumed)[name], tensor) for name, tensor in whole.items())


def test_flat_observations_are_refused() -> None:
    flat = SB3VecEnv(RoutingVectorEnv(2, SCENARIOS[0], flat=True))
    with pytest.raises(InputError, match="from observations that are not flat"):
        algorithm_of(CONFIG).build(CONFIG, flat, 0, None)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("network", "queue_mlp", "one of gnn, attention, mlp"),
        ("rounds", 0, "at least 1"),
        ("spacing_s", 0.0, "above 0"),
        ("exploration", 1.5, r"in \[0, 1\]"),
        ("algorithm", "ppo", "counterfactual with these keys"),
    ],
)
def test_values_out_of_range_are_refused(key: str, value: object, allowed: str) -> None:
    with pytest.raises(InputError, match=f"agent.{key} = .*{value}.*: must be {allowed}"):
        CounterfactualConfig(**{key: value})  # type: ignore[arg-type]
