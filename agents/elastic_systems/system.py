"""What serves the requests of an elastic scenario on its GPUs, and what became of them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servegym.envs.elastic_scenario import ElasticScenario
from servegym.envs.sim.elastic.simulate import ElasticResults
from servegym.envs.workloads import Workload

Times = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ServedRequests:
    """What happened to N requests, in whichever simulator (envs/elastic_metrics.py says of it); times in
    seconds.

    first_token_s, finish_s: nan where that never came. rejected: bool, too long for the system.
    num_scale_ups: of managers of elastic fleets; others have none. duration_s: to the last event."""

    arrival_s: Times
    prompt_tokens: Counts
    output_tokens: Counts
    first_token_s: Times
    finish_s: Times
    rejected: npt.NDArray[np.bool_]
    duration_s: float
    num_scale_ups: int = 0

    @property
    def finished(self) -> npt.NDArray[np.bool_]:
        """(N,) bool."""
        return ~np.isnan(self.finish_s)


@dataclass(frozen=True)
class ElasticSystem:
    """A system by its name.

    serve: the requests of a workload, on the GPUs of a scenario, in its clock.
    """

    name: str
    serve: Callable[[ElasticScenario, Workload], ServedRequests]


def served_by_fleet(results: ElasticResults) -> ServedRequests:
    """Of a simulation of the elastic fleet itself."""
    return ServedRequests(
        arrival_s=results.arrival_s,
        prompt_tokens=results.prompt_tokens,
        output_tokens=results.output_tokens,
        first_token_s=results.first_token_s,
        finish_s=results.finish_s,
        rejected=results.rejected,
        duration_s=results.duration_s,
        num_scale_ups=results.num_scale_ups,
    )
