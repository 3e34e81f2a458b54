"""What a routing decision costs against each other that could have been taken, all else held fixed.

The simulator is exact, so what one choice does can be measured instead of estimated: the same requests are
served once more with one of them sent elsewhere, while every other one goes where it went. The difference of
the objective is the choice's own (difference rewards: Wolpert and Tumer, Advances in Complex Systems 4,
2001), without the noise of what the other requests would have cost anyway. Where the others' choices are best
for the fleet, to hold them fixed changes the difference by terms of second order only (the envelope theorem).

Many requests are asked about in one simulation: those far enough apart in time, and each is sent to all
replicas at once that it did not go to, which are independent of each other while nobody chooses anew.
"""

from typing import NamedTuple

import numpy as np

from servegym.envs.scenario import Scenario
from servegym.envs.scenario.config import ObjectiveConfig
from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.workloads import Workload


class MarginalCosts(NamedTuple):
    """requests: int64 (M,), those asked about. costs: float64 (M, R), of sending each to each replica.

    mean_cost: of a request, as they were sent, in seconds.
    """

    requests: np.ndarray
    costs: np.ndarray
    mean_cost: float


@compiled_router
def _follow(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """The replica that stands next in the list."""
    place = int(memory[0])
    memory[0] += 1.0
    return int(parameters[place])


def prescribed(replicas: np.ndarray) -> Router:
    """Sends the n-th request that comes to the router to the n-th replica of a list, (N,)."""
    return Router("prescribed", _follow, np.asarray(replicas, np.float64), memory_size=1, looks=False)


def marginal_costs(
    scenario: Scenario,
    workload: Workload,
    replicas: np.ndarray,
    rng: np.random.Generator,
    *,
    rounds: int,
    spacing_s: float,
) -> MarginalCosts:
    """What requests drawn by `rng` would have cost at each replica, by the scenario's objective.

    replicas: int64 (N,), where each request went; R is at least 2. Each of `rounds` simulations asks about
    requests `spacing_s` apart: what changes for others is put down to the one asked about last before they
    ended, so a spacing shorter than requests take misses some of it. Fleets whose requests come to the router
    once, in order of arrival.
    """
    num_replicas = scenario.num_replicas
    base = scenario.simulate(workload, prescribed(replicas))
    base_costs, settled_s = costs_of(base, scenario.objective), _settled_s(base, scenario.objective)
    mean_cost = float(np.nanmean(base_costs))
    last_s = workload.arrival_s[-1]
    found = []
    for _ in range(rounds):
        times = np.arange(rng.uniform(0, min(spacing_s, last_s)), last_s, spacing_s)
        asked = np.unique(np.searchsorted(workload.arrival_s, times))
        if len(asked) == 0:
            continue
        copies = np.ones(workload.num_requests, np.int64)
        copies[asked] = num_replicas - 1
        places = np.concatenate([[0], np.cumsum(copies)[:-1]])
        sent = np.repeat(replicas, copies)
        others = _others(replicas[asked], num_replicas)
        of_copies = places[asked][:, None] + np.arange(num_replicas - 1)
        sent[of_copies] = others
        costs = costs_of(scenario.simulate(workload.repeat(copies), prescribed(sent)), scenario.objective)
        change = costs[places] - base_costs
        last_asked = np.searchsorted(workload.arrival_s[asked], settled_s) - 1
        counts = (last_asked >= 0) & np.isfinite(change)
        counts[asked] = False
        of_others = np.zeros((len(asked), num_replicas))
        np.add.at(of_others, (last_asked[counts], replicas[counts]), change[counts])
        rows = np.arange(len(asked))
        marginal = of_others.copy()
        marginal[rows, replicas[asked]] = base_costs[asked] - of_others[rows, replicas[asked]]
        marginal[rows[:, None], others] += costs[of_copies]
        found.append((asked, marginal))
    if not found:
        return MarginalCosts(np.zeros(0, np.int64), np.zeros((0, num_replicas)), mean_cost)
    requests, marginals = (np.concatenate(each) for each in zip(*found, strict=True))
    finite = np.isfinite(marginals).all(axis=1)
    return MarginalCosts(requests[finite], marginals[finite], mean_cost)


def _others(chosen: np.ndarray, num_replicas: int) -> np.ndarray:
    """int64 (M, R - 1): the replicas beside the one chosen, (M,), by number."""
    numbers = np.arange(num_replicas - 1)
    return numbers + (numbers >= chosen[:, None])


def _settled_s(results: Results, objective: ObjectiveConfig) -> np.ndarray:
    """When what each request costs is known: its first token where nothing else counts, its end otherwise."""
    ends_s = _ends(results)
    if objective.latency_weight > 0:
        return ends_s
    return np.where(np.isfinite(results.first_token_s), results.first_token_s, ends_s)


def _ends(results: Results) -> np.ndarray:
    """When each request finished or its client gave up, in seconds; NaN where it did neither."""
    return np.where(np.isfinite(results.finish_s), results.finish_s, results.cancelled_s)


def costs_of(results: Results, objective: ObjectiveConfig) -> np.ndarray:
    """Of each request, in seconds, as reward.py counts them; NaN where it has no end."""
    end_s = _ends(results)
    first_s = np.where(np.isfinite(results.first_token_s), results.first_token_s, end_s)
    ttft_s, latency_s = first_s - results.arrival_s, end_s - results.arrival_s
    costs: np.ndarray = objective.ttft_weight * ttft_s + objective.latency_weight * latency_s
    return costs
