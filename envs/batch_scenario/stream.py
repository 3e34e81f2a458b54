"""Which workload comes next: the sequence of episodes of batch serving that one seed stands for."""

from servegym.envs.batch_scenario.scenario import BatchScenario
from servegym.envs.scenario.stream import SeededStream
from servegym.envs.workloads.batch_workload import BatchWorkload


class BatchEpisodeStream(SeededStream[BatchScenario, BatchWorkload]):
    """Episodes of a scenario of batch serving."""

    def __init__(self, scenario: BatchScenario, split: str) -> None:
        super().__init__(scenario, scenario.traffic, split)
