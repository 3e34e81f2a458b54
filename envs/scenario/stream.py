"""Which workload comes next: the sequence of episodes that one seed stands for."""

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.scenario.scenario import Scenario
from servegym.envs.workloads import Workload

SPLITS = ("train", "test")


class EpisodeStream:
    """Episodes of a scenario, one after another, reproducible from a seed.

    Training: episode n of stream s is drawn from child n of `SeedSequence(s)`. Testing: it is the test
    workload of seed s + n.
    """

    def __init__(self, scenario: Scenario, split: str) -> None:
        if split not in SPLITS:
            raise InputError(f"split = {split}: must be one of {', '.join(SPLITS)}")
        self.scenario = scenario
        self.split = split
        self.max_requests = scenario.traffic.max_requests(split)
        self.restart(None)

    def restart(self, seed: int | None) -> None:
        """Back to the first episode of stream `seed`; None: a stream nobody has seen."""
        self._seed = np.random.SeedSequence(seed)
        self._next_test_seed = seed if seed is not None else int(self._seed.generate_state(1)[0])

    def next_workload(self) -> Workload:
        """The workload of the next episode."""
        if self.split == "train":
            return self.scenario.traffic.train_workload(self._seed.spawn(1)[0])
        self._next_test_seed += 1
        return self.scenario.traffic.test_workload(self._next_test_seed - 1)
