"""Which workload comes next: the episodes of elastic sequence parallelism that a seed stands for."""

from servegym.envs.elastic_scenario.scenario import ElasticScenario
from servegym.envs.scenario.stream import SeededStream
from servegym.envs.workloads import Workload


class ElasticEpisodeStream(SeededStream[ElasticScenario, Workload]):
    """Episodes of a scenario of elastic sequence parallelism."""

    def __init__(self, scenario: ElasticScenario, split: str) -> None:
        super().__init__(scenario, scenario.traffic, split)
