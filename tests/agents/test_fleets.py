"""Training and evaluation on fleets that are not plain."""

from pathlib import Path

import numpy as np

from servegym.agents.evaluation import route
from servegym.agents.heuristics import HeuristicPolicy, make_router
from servegym.agents.learners.config import PPOConfig
from servegym.agents.learners.ppo import build_ppo
from servegym.agents.learners.training import train
from servegym.agents.learners.vec_env import SB3VecEnv
from servegym.agents.networks.network_policy import NetworkPolicy
from servegym.agents.networks.policy import RouterPolicy
from servegym.envs.routing.vector import RoutingVectorEnv
from tests.envs.routing.test_fleet_env import IN_STAGES, TROUBLED


def test_ppo_trains_and_is_evaluated_on_fleets(tmp_path: Path) -> None:
    """Two updates change the weights, every choice is legal, and every request comes to its end."""
    for scenario in (TROUBLED, IN_STAGES):
        config = PPOConfig(network="mlp", hidden=16, n_steps=64, batch_size=128)
        env = SB3VecEnv(RoutingVectorEnv(4, scenario))
        model = build_ppo(config, env, seed=0)
        untrained = [tensor.clone() for tensor in model.policy.parameters()]
        train(model, 512, tmp_path / scenario.plan.replicas[0].role)
        trained = list(model.policy.parameters())
        assert any((one != other).any() for one, other in zip(trained, untrained, strict=True))
        assert len(model.ep_info_buffer or ()) >= 4
        assert isinstance(model.policy, RouterPolicy)
        workloads = [scenario.traffic.train_workload(np.random.SeedSequence(seed)) for seed in range(3)]
        for results in route(NetworkPolicy(model.policy.network), scenario, workloads):
            ended = results.finished | ~np.isnan(results.cancelled_s)
            assert ended.all()


def test_heuristics_are_evaluated_as_they_are_simulated() -> None:
    """Workloads of different lengths side by side."""
    for scenario in (TROUBLED, IN_STAGES):
        workloads = [scenario.traffic.train_workload(np.random.SeedSequence(seed)) for seed in range(3)]
        workloads[1] = workloads[1].take(np.arange(10))
        found = route(HeuristicPolicy(make_router("jsq")), scenario, workloads)
        for workload, results in zip(workloads, found, strict=True):
            expected = scenario.simulate(workload, make_router("jsq"))
            np.testing.assert_array_equal(results.replica, expected.replica)
            np.testing.assert_allclose(results.finish_s, expected.finish_s, rtol=1e-12)
