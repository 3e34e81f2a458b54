"""Traffic of a scenario of elastic sequence parallelism: training episodes, and test workloads apart."""

import numpy as np

from servegym.envs.elastic_scenario.config import ElasticWorkloadConfig
from servegym.envs.scenario.config import EpisodeConfig
from servegym.envs.workloads import Workload, generate
from servegym.envs.workloads.long_context import long_context_lengths

_TEST = 2**32 - 1  # spawn key of test traffic, beyond any number of training episodes


class ElasticTraffic:
    """Training episodes and test workloads. source: where requests come from, for people."""

    def __init__(self, config: ElasticWorkloadConfig, episode: EpisodeConfig) -> None:
        self.config, self.episode = config, episode
        self._lengths = long_context_lengths(config.lengths, config.zipf_exponent)
        law = "" if config.zipf_exponent is None else f" {config.zipf_exponent:g}"
        self.source = f"poisson arrivals, lengths of {config.lengths}{law}"

    def train_workload(self, seed: np.random.SeedSequence) -> Workload:
        """One training episode of `episode.requests` requests, its rate within `episode.rate_spread`."""
        rate_seed, traffic_seed = seed.spawn(2)
        spread = self.episode.rate_spread
        rate_factor = np.random.default_rng(rate_seed).uniform(1 - spread, 1 + spread)
        return self._draw(self.episode.requests, rate_factor, traffic_seed)

    def test_workload(self, seed: int) -> Workload:
        """The test workload of this seed, at the scenario's rate."""
        return self._draw(self.config.requests, 1.0, np.random.SeedSequence(seed, spawn_key=(_TEST,)))

    def max_requests(self, split: str) -> int:
        """The most requests an episode of `split` ("train" or "test") can have."""
        return self.episode.requests if split == "train" else self.config.requests

    def _draw(self, num_requests: int, rate_factor: float, seed: np.random.SeedSequence) -> Workload:
        return generate("poisson", self.config.rate_rps * rate_factor, 1.0, num_requests, self._lengths, seed)
