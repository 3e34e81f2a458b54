"""The episodes of a study: each can be simulated by itself, anywhere and in any order, with the same bits."""

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.metrics import SloLimits
from servegym.envs.sim.llm.simulate import Results
from servegym.experiments.configs import build_router, build_scenario
from servegym.experiments.studies.study_config import StudyConfig

_STUDY = 2**32 - 3  # spawn key, beyond any number of training episodes, and none of the test workloads'


class Episodes:
    """What simulates the episodes of a study.

    Episode n of seed s has its own `SeedSequence`, child n of one that no training episode and no test
    workload has; from it come its requests and what its router draws. InputError for what cannot be done.
    """

    def __init__(self, settings: StudyConfig) -> None:
        self.settings = settings
        self.scenario = build_scenario(settings.scenario, settings.rebalancer, settings.scheduler)
        self.router = build_router(settings.router, self.scenario)
        self.scenario.check_router(self.router)
        self.scenario.check_ranking()
        self.scenario.traffic.long_workload(settings.split, 1, self._seed(0))  # refuses bad traffic

    @property
    def source(self) -> str:
        """Where the requests come from."""
        return self.scenario.traffic.source

    def require_source(self, source: str) -> None:
        """InputError where the requests come from elsewhere, as on a machine without the trace."""
        if self.source != source:
            raise InputError(
                f"scenario.workload.trace = {self.settings.scenario.workload.trace}: must be there for all "
                f"workers or for none; requests come from {self.source}, where it began from {source}"
            )

    def simulate(self, episode: int) -> tuple[Results, SloLimits]:
        """One episode, from its first arrival to its last token, and what its requests were promised."""
        traffic_seed, router_seed = self._seed(episode).spawn(2)
        workload = self.scenario.traffic.long_workload(
            self.settings.split, self.settings.episode_requests, traffic_seed
        )
        drawn_from = int(router_seed.generate_state(1, np.uint64)[0])
        results = self.scenario.simulate(workload, self.router, seed=drawn_from)
        return results, self.scenario.slo_limits(workload)

    def _seed(self, episode: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.settings.seed, spawn_key=(_STUDY, episode))
