"""Traffic of a scenario of batch serving: training episodes, and test workloads that share none with them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.envs.batch_scenario.config import BatchWorkloadConfig
from servegym.envs.scenario.config import EpisodeConfig
from servegym.envs.workloads import Workload, find_data, read_trace, split
from servegym.envs.workloads.batch_arrivals import draw_from_trace, generate_batch_workload
from servegym.envs.workloads.batch_workload import BatchWorkload
from servegym.envs.workloads.rate_profile import load_profile
from servegym.envs.workloads.stretches import Stretches

_TEST = 2**32 - 1  # spawn key of test traffic, beyond any number of training episodes


class BatchTraffic:
    """Training episodes and test workloads. shares: (M,) of the requests that ask for each model.

    InputError for a trace or a profile that is not there, and for one that is too short.
    """

    def __init__(
        self, config: BatchWorkloadConfig, episode: EpisodeConfig, shares: npt.NDArray[np.float64]
    ) -> None:
        if (config.requests is None) == (config.seconds is None):
            raise InputError(
                "scenario.workload.requests, scenario.workload.seconds: exactly one of them must be given"
            )
        self.config, self.episode, self.shares = config, episode, shares
        self.num_test_requests = config.requests or max(2, round(config.rate_rps * (config.seconds or 0)))
        self._profile = None if config.profile is None else load_profile(config.profile)
        self._train = self._test = None
        self.source = f"{config.arrivals} arrivals"
        if config.trace is not None:
            train, test = split(_read(config.trace, config.format), config.test_s)
            self._train = Stretches(train)
            self._test = Stretches(test, "scenario.workload.requests", "test part")
            self._compression = config.rate_rps / (train.rate_rps * config.keep)
            self.source = config.trace

    def train_workload(self, seed: np.random.SeedSequence) -> BatchWorkload:
        """One training episode of `episode.requests` requests, its rate within `episode.rate_spread`."""
        rate_seed, traffic_seed = seed.spawn(2)
        spread = self.episode.rate_spread
        rate_factor = np.random.default_rng(rate_seed).uniform(1 - spread, 1 + spread)
        return self._draw(self._train, self.episode.requests, rate_factor, traffic_seed)

    def test_workload(self, seed: int) -> BatchWorkload:
        """The test workload of this seed, at the scenario's rate."""
        seeds = np.random.SeedSequence(seed, spawn_key=(_TEST,))
        return self._draw(self._test, self.num_test_requests, 1.0, seeds)

    def max_requests(self, split: str) -> int:
        """The most requests an episode of `split` ("train" or "test") can have."""
        return self.episode.requests if split == "train" else self.num_test_requests

    def _draw(
        self, part: Stretches | None, num_requests: int, rate_factor: float, seed: np.random.SeedSequence
    ) -> BatchWorkload:
        config = self.config
        if part is not None:
            compression = self._compression * rate_factor
            return draw_from_trace(part, compression, self.shares, num_requests, config.keep, seed)
        return generate_batch_workload(
            config.arrivals,
            config.rate_rps * rate_factor,
            self.shares,
            num_requests,
            seed,
            shape=config.shape,
            profile=self._profile,
            period_s=config.period_s,
        )


def _read(trace: str, format: str) -> Workload:
    path = Path(trace)
    found = path if path.is_file() else find_data(trace)
    if found is None:
        raise InputError(
            f"scenario.workload.trace = {trace}: no such file, here or in the data folder (SERVEGYM_DATA, "
            "else ../shared/data)"
        )
    return read_trace(found, format)
