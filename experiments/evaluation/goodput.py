"""Goodput: the largest rate at which enough requests keep what they were promised.

As DistServe defines it (Zhong et al., OSDI 2024, section 2): the highest rate at which a share of the
requests, 90 % or 99 %, attains both limits. The search knows nothing of what serves the requests: it asks a
function `attainment(rate, seed)` for the share that attains them. That function gives one seed the same
requests at every rate, only closer together (common random numbers), so that attainment falls as the rate
rises and what differs between two systems is not luck.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.envs.metrics import SloLimits, attains_slo
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.workloads import Workload
from servegym.experiments.evaluation.statistics import Estimate, estimate

Attainment = Callable[[float, int], float]
"""Of a rate and a seed: the share of requests that keep their limits, in [0, 1]."""

TOLERANCE = 0.01
"""Relative width of the interval that a search ends with."""

MOST_STEPS = 40
"""Doublings or halvings until a search gives up finding a rate that is too high or low enough."""


@dataclass(frozen=True, eq=False)
class Goodput:
    """What a search found: `rates` (S,), one a seed, in the search's own unit.

    0 where no rate is low enough, infinity where the requests of a seed keep the limits all at once.
    """

    share: float
    seeds: Sequence[int]
    rates: npt.NDArray[np.float64]

    @property
    def estimate(self) -> Estimate:
        """Interquartile mean over the seeds with its 95 % bootstrap interval; of one seed a point.

        InputError where a rate is infinite.
        """
        if np.isinf(self.rates).any():
            raise InputError(
                f"goodput: {self.share:.0%} of the requests keep the limits even if all come at once; a "
                "limit must be shorter or the workload longer"
            )
        return estimate(self.rates)


def largest_rate(holds: Callable[[float], bool], guess: float, tolerance: float = TOLERANCE) -> float:
    """The largest rate at which something holds that fails at all larger ones, by bisection of its logarithm.

    From `guess` the rate is doubled until it fails or halved until it holds. The answer is a rate that holds,
    and one that is `1 + tolerance` as large fails; 0 where it fails at the lowest rate tried, infinity where
    it holds at the highest one. InputError for a guess that is not above 0 and finite.
    """
    if not 0 < guess < math.inf:
        raise InputError(f"first rate = {guess}: must be above 0 and finite")
    holding, failing = (guess, math.inf) if holds(guess) else (0.0, guess)
    for _ in range(MOST_STEPS):
        if holding > 0 and failing < math.inf:
            break
        rate = 2 * holding if holding > 0 else failing / 2
        holding, failing = (rate, failing) if holds(rate) else (holding, rate)
    if holding == 0 or failing == math.inf:
        return holding and math.inf
    while failing > holding * (1 + tolerance):
        rate = math.sqrt(holding * failing)
        holding, failing = (rate, failing) if holds(rate) else (holding, rate)
    return holding


def find_goodput(
    attainment: Attainment,
    *,
    guess: float,
    seeds: Sequence[int] = (0,),
    share: float = 0.9,
    tolerance: float = TOLERANCE,
) -> Goodput:
    """The goodput of what `attainment` stands for, searched with each seed from `guess` on.

    InputError for a share outside (0, 1], no seeds, and as `largest_rate`.
    """
    if not 0 < share <= 1:
        raise InputError(f"share = {share}: must be in (0, 1]")
    if not seeds:
        raise InputError("seeds: must be at least one")
    rates: list[float] = []
    for seed in seeds:

        def holds(rate: float, seed: int = seed) -> bool:
            return attainment(rate, seed) >= share

        rates.append(largest_rate(holds, guess, tolerance))
        if 0 < rates[-1] < math.inf:
            guess = rates[-1]  # the seeds' answers are alike
    return Goodput(share, list(seeds), np.array(rates))


@dataclass(frozen=True, eq=False)
class Demand:
    """What comes and what it was promised: the requests of a seed, and the limits of theirs."""

    workload: Callable[[int], Workload]
    limits: Callable[[Workload], SloLimits]

    def attainment(self, serve: Callable[[Workload, int], Results]) -> Attainment:
        """Of what serves a workload with a seed, by the rate in requests/s at which the requests come.

        That is the mean rate of the requests themselves. InputError where a seed has fewer than two.
        """
        workloads: dict[int, Workload] = {}

        def attainment(rate: float, seed: int) -> float:
            if seed not in workloads:
                workloads[seed] = self.workload(seed)
            workload = workloads[seed]
            if not workload.rate_rps > 0:
                raise InputError(
                    f"{workload.name}, seed {seed}: has {workload.num_requests} requests, a goodput needs at "
                    "least 2 that do not come at once"
                )
            results = serve(workload.scale_rate(rate / workload.rate_rps), seed)
            return float(attains_slo(results, self.limits(workload)).mean())

        return attainment


def routing_attainment(scenario: Scenario, router: Router) -> Attainment:
    """Of the test workloads of a scenario under a router; the limits are the classes' or the objective's.

    Rates are those of the simulated requests, not `rate_rps`, which is the training part's.
    """
    demand = Demand(scenario.traffic.test_workload, scenario.slo_limits)
    return demand.attainment(lambda workload, seed: scenario.simulate(workload, router, seed=seed))
