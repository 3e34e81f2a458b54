"""Lets any policy route whole workloads, schedule them, or both, all of them side by side."""

from collections.abc import Sequence

import numpy as np

from servegym.agents.policy import Policy
from servegym.envs.batching.episodes import BatchingEpisodes
from servegym.envs.batching.observation import observation_of
from servegym.envs.routing.fleet_episodes import routing_episodes
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.two_level.episodes import TwoLevelEpisodes
from servegym.envs.workloads import Workload


def route(policy: Policy, scenario: Scenario, workloads: Sequence[Workload], seed: int = 0) -> list[Results]:
    """Results of each workload under `policy`; one forward pass serves a decision in every workload."""
    longest = max(workload.num_requests for workload in workloads)
    episodes = routing_episodes(scenario, len(workloads), longest)
    for episode_id, workload in enumerate(workloads):
        episodes.begin(episode_id, workload)
    policy.reset(len(workloads), seed)
    while not episodes.finished.all():
        episodes.step(np.asarray(policy.act(episodes.observation), np.int64))
    return [episodes.results(episode_id) for episode_id in range(len(workloads))]


def schedule(policy: Policy, scenario: Scenario, workloads: Sequence[Workload]) -> list[Results]:
    """Results of each workload on the scenario's one replica with `policy` as its engine's scheduler.

    The policy chooses legal actions of `servegym/Batching-v0` by itself: it is given no masks.
    """
    longest = max(workload.num_requests for workload in workloads)
    episodes = BatchingEpisodes(scenario, len(workloads), longest)
    for episode_id, workload in enumerate(workloads):
        episodes.begin(episode_id, workload)
    policy.reset(len(workloads), 0)
    observation = observation_of(episodes.rows, flat=False)
    while not episodes.finished.all():
        episodes.step(policy.act(observation))
    return [episodes.results(episode_id) for episode_id in range(len(workloads))]


def route_and_schedule(policy: Policy, scenario: Scenario, workloads: Sequence[Workload]) -> list[Results]:
    """Results of each workload with `policy` as the router and as the scheduler of every replica.

    The policy chooses legal actions of `servegym/TwoLevel-v0` by itself: it is given no masks.
    """
    longest = max(workload.num_requests for workload in workloads)
    episodes = TwoLevelEpisodes(scenario, len(workloads), longest)
    for episode_id, workload in enumerate(workloads):
        episodes.begin(episode_id, workload)
    policy.reset(len(workloads), 0)
    while not episodes.finished.all():
        episodes.step(policy.act(episodes.observation))
    return [episodes.results(episode_id) for episode_id in range(len(workloads))]
