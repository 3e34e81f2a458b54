"""The best pair of a router and a scheduler: all that apply are simulated on the same requests."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servegym.agents.heuristics import ROUTERS
from servegym.agents.schedulers import SCHEDULERS
from servegym.costmodels.errors import InputError
from servegym.costmodels.progress import tracked
from servegym.envs.metrics import summarise
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.router import Router
from servegym.envs.workloads import Workload
from servegym.experiments.evaluation.contenders import configured_router, with_scheduler

SCREENING_SEEDS = 2
"""Seeds that every pair is simulated on (ours)."""


@dataclass(frozen=True)
class Pair:
    """A router with a scheduler, None for the engine's own, made ready for a scenario."""

    router: Router
    scheduler: str | None
    scenario: Scenario

    @property
    def name(self) -> str:
        """ROUTER+SCHEDULER, or ROUTER, as `servegym evaluate` takes it."""
        return f"{self.router.name}+{self.scheduler}" if self.scheduler else self.router.name

    def figure(self, workload: Workload, seed: int, metric: str) -> float:
        """`metric` of `summarise` on a workload."""
        results = self.scenario.simulate(workload, self.router, seed=seed)
        return float(summarise(results, self.scenario.slo_limits(workload))[metric])


def applicable_pairs(
    scenario: Scenario, routers: Sequence[str] | None = None, schedulers: Sequence[str] | None = None
) -> list[Pair]:
    """All pairs whose needs the scenario meets, of all routers and schedulers or of those named.

    The engine's own scheduler is among them unless schedulers are named. InputError for unknown names.
    """
    for group, given, known in (("routers", routers, ROUTERS), ("schedulers", schedulers, SCHEDULERS)):
        for name in given or ():
            if name not in known:
                raise InputError(f"{group}: {name}: must be one of {', '.join(known)}")
    scheduled: dict[str | None, Scenario] = {None: scenario} if schedulers is None else {}
    for scheduler in SCHEDULERS if schedulers is None else schedulers:
        try:
            ranked = with_scheduler(scheduler, scenario)
            ranked.check_ranking()
        except InputError:
            continue
        scheduled[scheduler] = ranked
    pairs = []
    for name in ROUTERS if routers is None else routers:
        try:
            router = configured_router(name, scenario)
            scenario.check_router(router)
        except InputError:
            continue
        pairs += [Pair(router, scheduler, ranked) for scheduler, ranked in scheduled.items()]
    return pairs


def search_pairs(
    pairs: Sequence[Pair],
    workloads: Sequence[Workload],
    seeds: Sequence[int],
    metric: str,
    finalists: int,
) -> dict[str, npt.NDArray[np.float64]]:
    """`metric` of each pair on the workload of each seed, the best pair by its mean first.

    All pairs are simulated on the first SCREENING_SEEDS seeds, the best `finalists` of these on all; the
    others have only the former. Less is better.
    """
    screened = min(SCREENING_SEEDS, len(seeds))
    found: dict[str, list[float]] = {pair.name: [] for pair in pairs}
    rounds = ((range(screened), len(pairs)), (range(screened, len(seeds)), finalists))
    remaining = list(pairs)
    for which, number in rounds:
        remaining = sorted(remaining, key=lambda pair: sum(found[pair.name]))[:number]
        for pair in tracked(remaining, metric, "pairs"):
            found[pair.name] += [pair.figure(workloads[i], seeds[i], metric) for i in which]
    order = sorted(found, key=lambda name: (-len(found[name]), sum(found[name])))
    return {name: np.array(found[name]) for name in order}
