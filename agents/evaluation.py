"""Lets any policy route whole workloads, all of them side by side."""

from collections.abc import Sequence

import numpy as np

from servegym.agents.policy import Policy
from servegym.envs.routing.fleet_episodes import routing_episodes
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.simulate import Results
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
