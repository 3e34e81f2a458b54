"""What a policy costs when it is simulated: many long episodes of the environment, side by side."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.dynamic_batching.episodes import DynamicBatchingEpisodes
from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario
from servegym.envs.dynamic_batching.stream import ArrivalStream


class BatchPolicy(Protocol):
    """Decides for K episodes of `servegym/DynamicBatching-v0` at once."""

    name: str

    def reset(self, num_episodes: int, seed: int) -> None:
        """Forgets everything: K episodes are about to start."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """int64 (K,): a legal action per episode, from observations (K, FEATURES)."""


@dataclass(frozen=True)
class Simulation:
    """Means over episodes; `cost_error` is the standard error of `cost`."""

    cost: float
    cost_error: float
    response_s: float
    power_w: float
    mean_batch: float
    num_requests: int


def simulate_batching(
    policy: BatchPolicy, scenario: DynamicBatchingScenario, num_episodes: int = 32, seed: int = 0
) -> Simulation:
    """Plays episodes of `scenario.requests` each, all at once: of each stream `seed + k` the first."""
    if num_episodes < 2:
        raise InputError(f"episodes = {num_episodes}: must be at least 2, for an error of the mean")
    episodes = DynamicBatchingEpisodes(scenario, num_episodes, scenario.requests)
    workloads = []
    for episode_id in range(num_episodes):
        stream = ArrivalStream(scenario)
        stream.restart(seed + episode_id)
        workloads.append(stream.next_workload())
        episodes.begin(episode_id, workloads[-1])
    policy.reset(num_episodes, seed)
    while not episodes.finished.all():
        episodes.step(policy.act(episodes.observation))
    summaries = [episodes.summary(k, workload) for k, workload in enumerate(workloads)]

    def of(key: str) -> np.ndarray:
        return np.array([summary[key] for summary in summaries])

    return Simulation(
        cost=float(of("cost").mean()),
        cost_error=float(of("cost").std(ddof=1) / math.sqrt(num_episodes)),
        response_s=float(of("mean_response_s").mean()),
        power_w=float(of("power_w").mean()),
        mean_batch=float(of("mean_batch").mean()),
        num_requests=num_episodes * scenario.requests,
    )
