"""Which workload comes next: the sequence of episodes that one seed stands for."""

from typing import Generic, Protocol, TypeVar

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.problem import LoadOut, Named
from servegym.envs.scenario.scenario import Scenario
from servegym.envs.workloads import Workload

SPLITS = ("train", "test")

Who = TypeVar("Who", bound=Named)


class EpisodeSource(Protocol[LoadOut]):
    """Training episodes and test workloads of a scenario, whatever serves them."""

    def train_workload(self, seed: np.random.SeedSequence, /) -> LoadOut:
        """One training episode."""

    def test_workload(self, seed: int, /) -> LoadOut:
        """The test workload of a seed."""

    def max_requests(self, split: str, /) -> int:
        """The most requests an episode of "train" or "test" can have."""


class SeededStream(Generic[Who, LoadOut]):
    """Episodes of a scenario, one after another, reproducible from a seed.

    Training: episode n of stream s is drawn from child n of `SeedSequence(s)`. Testing: it is the test
    workload of seed s + n.
    """

    def __init__(self, scenario: Who, traffic: EpisodeSource[LoadOut], split: str) -> None:
        if split not in SPLITS:
            raise InputError(f"split = {split}: must be one of {', '.join(SPLITS)}")
        self.scenario = scenario
        self.traffic = traffic
        self.split = split
        self.max_requests = traffic.max_requests(split)
        self.restart(None)

    def restart(self, seed: int | None) -> None:
        """Back to the first episode of stream `seed`; None: a stream nobody has seen."""
        self._seed = np.random.SeedSequence(seed)
        self._next_test_seed = seed if seed is not None else int(self._seed.generate_state(1)[0])

    def next_workload(self) -> LoadOut:
        """The workload of the next episode."""
        if self.split == "train":
            return self.traffic.train_workload(self._seed.spawn(1)[0])
        self._next_test_seed += 1
        return self.traffic.test_workload(self._next_test_seed - 1)


class EpisodeStream(SeededStream[Scenario, Workload]):
    """Episodes of a scenario of LLM serving."""

    def __init__(self, scenario: Scenario, split: str) -> None:
        super().__init__(scenario, scenario.traffic, split)
