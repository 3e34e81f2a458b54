"""What a policy costs when it is simulated: many long episodes of the environment, side by side."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.dynamic_batching.episodes import DynamicBatchingEpisodes
from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario
from servegym.envs.dynamic_batching.stream import Arrivals, ArrivalStream

Act = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Actions (K,) from observations (K, FEATURES) and legal actions (K, max_batch + 1)."""


class BatchPolicy(Protocol):
    """Decides for K episodes of `servegym/DynamicBatching-v0` at once."""

    name: str

    def reset(self, num_episodes: int, seed: int) -> None:
        """Forgets everything: K episodes are about to start."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """int64 (K,): a legal action per episode, from observations (K, FEATURES)."""


@dataclass(frozen=True)
class SimulatedCost:
    """Means over episodes; `cost_error` is the standard error of `cost`."""

    cost: float
    cost_error: float
    response_s: float
    power_w: float
    mean_batch: float
    num_requests: int


def simulate_batching(
    policy: BatchPolicy, scenario: DynamicBatchingScenario, num_episodes: int = 32, seed: int = 0
) -> SimulatedCost:
    """Plays episodes of `scenario.requests` each, all at once: of each stream `seed + k` the first."""
    if num_episodes < 2:
        raise InputError(f"episodes = {num_episodes}: must be at least 2, for an error of the mean")
    workloads = []
    for episode_id in range(num_episodes):
        stream = ArrivalStream(scenario)
        stream.restart(seed + episode_id)
        workloads.append(stream.next_workload())
    policy.reset(num_episodes, seed)
    summaries = play(lambda observation, _: policy.act(observation), scenario, workloads)

    def of(key: str) -> np.ndarray:
        return np.array([summary[key] for summary in summaries])

    return SimulatedCost(
        cost=float(of("cost").mean()),
        cost_error=float(of("cost").std(ddof=1) / math.sqrt(num_episodes)),
        response_s=float(of("mean_response_s").mean()),
        power_w=float(of("power_w").mean()),
        mean_batch=float(of("mean_batch").mean()),
        num_requests=num_episodes * scenario.requests,
    )


def play(
    act: Act, scenario: DynamicBatchingScenario, workloads: Sequence[Arrivals]
) -> list[dict[str, float]]:
    """The metrics of one episode for each workload, all at once."""
    episodes = DynamicBatchingEpisodes(scenario, len(workloads), max(map(len, workloads)))
    for episode_id, workload in enumerate(workloads):
        episodes.begin(episode_id, workload)
    while not episodes.finished.all():
        episodes.step(act(episodes.observation, episodes.masks))
    return [episodes.summary(episode_id, workload) for episode_id, workload in enumerate(workloads)]
