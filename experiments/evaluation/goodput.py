"""Goodput: the largest rate at which enough requests keep what they were promised.

As DistServe defines it (Zhong et al., OSDI 2024, section 2): the highest rate at which a share of the
requests, 90 % or 99 %, attains both limits. In batch serving it is the share answered in time, 99 % by the
convention of Nexus (Shen et al., SOSP 2019). The search knows nothing of what serves the requests: it asks a
function `attainment(rate, seed)` for the share that attains them. That function gives one seed the same
requests at every rate, only closer together (common random numbers), so that attainment falls as the rate
rises and what differs between two systems is not luck.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.costmodels.progress import tracked
from servegym.envs.batch_scenario import BatchScenario
from servegym.envs.metrics import SloLimits, attains_slo
from servegym.envs.scenario import Scenario
from servegym.envs.sim.batch.scheduler import BatchScheduler
from servegym.envs.sim.llm.router import Router
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.workloads import Workload
from servegym.experiments.evaluation.statistics import Estimate, estimate

Attainment = Callable[[float, int], float]
"""Of a rate and a seed: the share of requests that keep their limits, in [0, 1]."""

Rates = npt.NDArray[np.float64]

TOLERANCE = 0.01
"""Relative width of the interval that a search ends with."""

MOST_STEPS = 40
"""Doublings or halvings until a search gives up finding a rate that is too high or low enough."""


@dataclass(frozen=True, eq=False)
class Goodput:
    """What a search found: `rates` (S,), one a seed, in the search's own unit.

    0 where no rate is low enough, infinity where the requests of a seed keep the limits all at once.
    attained: (S,) the share that keeps them at that rate; NaN where it is 0 or infinite.
    """

    share: float
    seeds: Sequence[int]
    rates: npt.NDArray[np.float64]
    attained: npt.NDArray[np.float64]

    @property
    def estimate(self) -> Estimate:
        """`estimate_rates` of it."""
        return estimate_rates(self.rates, self.share)


def estimate_rates(rates: Rates, share: float) -> Estimate:
    """Interquartile mean over the seeds (S,) with its 95 % bootstrap interval; of one seed a point.

    InputError where a rate is infinite.
    """
    if np.isinf(rates).any():
        raise InputError(
            f"goodput: {share:.0%} of the requests keep the limits even if all come at once; a limit must be "
            "shorter or the workload longer"
        )
    return estimate(rates)


def largest_rate(
    holds: Callable[[float], bool],
    guess: float,
    tolerance: float = TOLERANCE,
    most_steps: int = MOST_STEPS,
) -> float:
    """The largest rate at which something holds that fails at larger ones, by bisection of its logarithm.

    From `guess` the rate is doubled until it fails or halved until it holds, at most `most_steps` times.
    The answer is a rate that holds, and one that is `1 + tolerance` as large fails; 0 where it fails at the
    lowest rate tried, infinity where it holds at the highest one. InputError for a guess that is not above 0
    and finite.
    """

    def one(rates: Rates, which: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        return np.array([holds(float(rate)) for rate in rates])

    return float(largest_rates(one, np.array([guess]), tolerance, most_steps)[0])


def largest_rates(
    holds: Callable[[Rates, npt.NDArray[np.int64]], npt.NDArray[np.bool_]],
    guesses: Rates,
    tolerance: float = TOLERANCE,
    most_steps: int = MOST_STEPS,
) -> Rates:
    """`largest_rate` of S things at once, from `guesses` (S,): for what is quicker side by side.

    `holds(rates, which)` is asked about those of them, by number, whose search has not ended.
    """
    if not ((guesses > 0) & np.isfinite(guesses)).all():
        raise InputError(f"first rate = {guesses[0]}: must be above 0 and finite")
    holding, failing = np.zeros(len(guesses)), np.full(len(guesses), math.inf)

    def ask(rates: Rates, which: npt.NDArray[np.int64]) -> None:
        held = holds(rates, which)
        holding[which[held]] = rates[held]
        failing[which[~held]] = rates[~held]

    ask(guesses, np.arange(len(guesses)))
    for _ in range(most_steps):
        which = np.flatnonzero((holding == 0) | np.isinf(failing))
        if len(which):
            ask(np.where(holding > 0, 2 * holding, failing / 2)[which], which)
    bracketed = (holding > 0) & np.isfinite(failing)
    while len(which := np.flatnonzero(bracketed & (failing > holding * (1 + tolerance)))):
        ask(np.sqrt(holding * failing)[which], which)
    return np.where(np.isinf(failing) & (holding > 0), math.inf, holding)


def find_goodput(
    attainment: Attainment,
    *,
    guess: float,
    seeds: Sequence[int] = (0,),
    share: float = 0.9,
    tolerance: float = TOLERANCE,
    most_steps: int = MOST_STEPS,
) -> Goodput:
    """The goodput of what `attainment` stands for, searched with each seed from `guess` on.

    InputError for a share outside (0, 1], no seeds, and as `largest_rate`.
    """
    if not 0 < share <= 1:
        raise InputError(f"share = {share}: must be in (0, 1]")
    if not seeds:
        raise InputError("seeds: must be at least one")
    rates: list[float] = []
    attained: list[float] = []
    for seed in tracked(seeds, "Largest rate", "seeds"):
        seen: dict[float, float] = {}

        def holds(rate: float, seed: int = seed, seen: dict[float, float] = seen) -> bool:
            seen[rate] = attainment(rate, seed)
            return seen[rate] >= share

        rates.append(largest_rate(holds, guess, tolerance, most_steps))
        attained.append(seen.get(rates[-1], math.nan))
        if 0 < rates[-1] < math.inf:
            guess = rates[-1]  # the seeds' answers are alike
    return Goodput(share, list(seeds), np.array(rates), np.array(attained))


class Requests(Protocol):
    """A workload, as far as its rate goes."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def num_requests(self) -> int:
        """How many there are."""

    @property
    def rate_rps(self) -> float:
        """The mean rate of the requests themselves."""

    def scale_rate(self: "Load", factor: float, /) -> "Load":
        """The same requests at `factor` times the rate."""


Load = TypeVar("Load", bound=Requests)


def attainment_at_rates(of_seed: Callable[[int], Load], attained: Callable[[Load, int], float]) -> Attainment:
    """From the requests of a seed, and from the share of some that keep their limits when they are served.

    The rate is the mean rate of the requests themselves. InputError where a seed has fewer than two.
    """
    workloads: dict[int, Load] = {}

    def attainment(rate: float, seed: int) -> float:
        if seed not in workloads:
            workloads[seed] = of_seed(seed)
        workload = workloads[seed]
        if not workload.rate_rps > 0:
            raise InputError(
                f"{workload.name}, seed {seed}: has {workload.num_requests} requests, a goodput needs at "
                "least 2 that do not come at once"
            )
        return attained(workload.scale_rate(rate / workload.rate_rps), seed)

    return attainment


@dataclass(frozen=True, eq=False)
class Demand:
    """What comes and what it was promised: the requests of a seed, and the limits of theirs."""

    workload: Callable[[int], Workload]
    limits: Callable[[Workload], SloLimits]

    def attainment(self, serve: Callable[[Workload, int], Results]) -> Attainment:
        """Of what serves a workload with a seed, by the rate in requests/s at which the requests come."""
        return attainment_at_rates(
            self.workload,
            lambda workload, seed: float(attains_slo(serve(workload, seed), self.limits(workload)).mean()),
        )


def routing_attainment(scenario: Scenario, router: Router) -> Attainment:
    """Of the test workloads of a scenario under a router; the limits are the classes' or the objective's.

    Rates are those of the simulated requests, not `rate_rps`, which is the training part's.
    """
    demand = Demand(scenario.traffic.test_workload, scenario.slo_limits)
    return demand.attainment(lambda workload, seed: scenario.simulate(workload, router, seed=seed))


def batch_attainment(scenario: BatchScenario, scheduler: BatchScheduler) -> Attainment:
    """Of the test workloads of a scenario of batch serving: the share answered in time."""
    return attainment_at_rates(
        scenario.traffic.test_workload,
        lambda workload, seed: 1.0 - scenario.simulate(workload, scheduler).bad_share,
    )
