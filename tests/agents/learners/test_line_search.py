"""The line search keeps of what was learnt what serves best."""

import numpy as np
import pytest
import torch

from servegym.agents.evaluation import route
from servegym.agents.learners.line_search import SHARES, costs_by_share, search_departure
from servegym.agents.networks.action_network import as_tensors
from servegym.agents.networks.build import build_network
from servegym.agents.networks.network_policy import NetworkPolicy
from servegym.agents.networks.router_network import RouterNetwork
from servegym.agents.serving.artifact.golden import plausible_observation
from servegym.envs.scenario import load_scenario

SCENARIOS = [
    load_scenario(
        "generated_8xh100",
        (
            "scenario.fleet.replicas=2",
            f"scenario.workload.rate_rps={rate}",
            "scenario.episode.requests=120",
            "scenario.objective.ttft_weight=0",
            "scenario.objective.latency_weight=1",
        ),
    )
    for rate in (30, 45)
]


def trained(kind: str) -> RouterNetwork:
    """As after training: weights that differ from those of the start."""
    torch.manual_seed(0)
    network = build_network(kind, 3, 16, 2)
    assert isinstance(network, RouterNetwork)
    with torch.no_grad():
        network.prior_weights.copy_(torch.tensor([0.4, 0.7]))
        network.score.weight.normal_()
        network.score.bias.normal_()
    return network.eval()


@pytest.mark.parametrize("kind", ["gnn", "attention", "mlp"])
def test_a_share_of_the_way_from_the_forecasts(kind: str) -> None:
    network = trained(kind)
    observation = as_tensors(plausible_observation("router", np.random.default_rng(0), 40, 3))
    ttft_share = network.prepare(observation)[0][:, -1:]
    whole = network.scores(observation)[0]
    network.departure.zero_()
    start = network.scores(observation)[0]
    network.departure.copy_(torch.tensor([0.3, 0.6]))
    expected = start + (0.3 + 0.3 * ttft_share) * (whole - start)
    torch.testing.assert_close(network.scores(observation)[0], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.compiled
def test_nothing_is_kept_of_what_is_no_good() -> None:
    """A network that sends requests where they cost most."""
    network = trained("gnn")
    with torch.no_grad():
        network.prior_weights.copy_(torch.tensor([-10.0, 0.0]))
    before = [scenario.traffic.training_rate for scenario in SCENARIOS]
    latency, ttft = search_departure(network, SCENARIOS, seed=1, episodes=2, rate=0.8)
    assert latency < 0.1 and ttft == 1.0  # there is nothing to tell by
    assert network.departure.tolist() == pytest.approx([latency, ttft])
    assert [scenario.traffic.training_rate for scenario in SCENARIOS] == before


@pytest.mark.compiled
def test_costs_are_those_of_serving_fresh_episodes_with_each_share() -> None:
    network = trained("gnn")
    relative = costs_by_share(network, SCENARIOS[1], seed=3, episodes=1)
    (seed,) = np.random.SeedSequence([3, len(SHARES)]).spawn(1)
    workload = SCENARIOS[1].traffic.train_workload(seed)
    costs = []
    for share in SHARES:
        kept = trained("gnn")
        kept.departure.fill_(share)
        (results,) = route(NetworkPolicy(kept), SCENARIOS[1], [workload])
        costs.append(np.mean(results.finish_s - results.arrival_s))
    np.testing.assert_allclose(relative, np.array(costs) / costs[0], rtol=1e-3)
    assert np.ptp(relative) > 1e-3
