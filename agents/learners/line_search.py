"""How far a trained router departs from its forecasts: a line search on training traffic.

What a choice costs is learnt with all other choices held fixed. A policy that changes all of its choices at
once goes further than these costs are good for, which conservative policy iteration meets with a step towards
the new policy in place of all the way (Kakade and Langford, ICML 2002). Here the step is in the scores, from
those of the forecasts alone, where training began, and its size is what serves best.
"""

from collections.abc import Sequence

import numpy as np
import torch

from servegym.agents.evaluation import route
from servegym.agents.networks.network_policy import NetworkPolicy
from servegym.agents.networks.router_network import RouterNetwork
from servegym.envs.routing.counterfactual import costs_of
from servegym.envs.scenario import Scenario

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
"""Of the departure that was learnt: 0 routes by the forecasts alone."""


def costs_by_share(network: RouterNetwork, scenario: Scenario, seed: int, episodes: int) -> np.ndarray:
    """The mean cost of a request with each of SHARES over that with the first, on fresh training episodes."""
    seeds = np.random.SeedSequence([seed, len(SHARES)]).spawn(episodes)
    workloads = [scenario.traffic.train_workload(each) for each in seeds]
    before = network.departure
    network.departure = torch.tensor(SHARES).repeat_interleave(episodes).unsqueeze(1).expand(-1, 2)
    try:
        results = route(NetworkPolicy(network), scenario, workloads * len(SHARES), seed)
    finally:
        network.departure = before
    costs = [float(np.nanmean(costs_of(each, scenario.objective))) for each in results]
    means = np.array(costs).reshape(len(SHARES), episodes).mean(axis=1)
    relative: np.ndarray = means / means[0]
    return relative


def search_departure(
    network: RouterNetwork, scenarios: Sequence[Scenario], seed: int, episodes: int, rate: float
) -> tuple[float, float]:
    """The best of SHARES where latency is the objective, and where TTFT is; the network then has them.

    Best by the mean over the scenarios of that objective; 1 where there are none. rate: of the episodes, as a
    share of each scenario's.
    """
    before = [scenario.traffic.training_rate for scenario in scenarios]
    try:
        for scenario in scenarios:
            scenario.traffic.training_rate = rate
        relative = {
            ttft: [
                costs_by_share(network, scenario, seed, episodes)
                for scenario in scenarios
                if (scenario.objective.latency_weight == 0) == ttft
            ]
            for ttft in (False, True)
        }
    finally:
        for scenario, old in zip(scenarios, before, strict=True):
            scenario.traffic.training_rate = old
    latency, ttft = (
        SHARES[int(np.mean(found, axis=0).argmin())] if found else 1.0 for found in relative.values()
    )
    network.departure.copy_(torch.tensor([latency, ttft]))
    return latency, ttft
