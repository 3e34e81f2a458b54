"""One trace through every contestant in turn, each before workers that have just started."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from servegym.agents.serving.config import ServingConfig
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.workloads import Workload
from servegym.envs.workloads.decision_log import read_decision_log
from servegym.experiments.evaluation.contenders import contender, kind_of
from servegym.experiments.live_comparison.children import first_answer, servegym_command
from servegym.experiments.live_comparison.contestant import Contestant
from servegym.experiments.live_comparison.fronts import DECISIONS, front, running
from servegym.experiments.load_generator.drive import LoadSettings, drive
from servegym.experiments.load_generator.load_results import LoadResults

ROUTER_FOLDER = "router"
"""In the folder of a run: what its router was given, and wrote."""


@dataclass(frozen=True)
class LiveSettings:
    """How contestants are run: of the workers, the load, and what ours are told."""

    words: Sequence[str]  # of `servegym emulate`: the scenario
    time_scale: float
    stream_interval: int
    report_period_s: float  # on the wall
    model: str
    pythons: Mapping[str, str | None]


def run_live(
    contestant: Contestant,
    workload: Workload,
    serving: ServingConfig | None,
    settings: LiveSettings,
    folder: Path,
) -> LoadResults:
    """What clients have seen of a workload behind a contestant."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [
        *("emulate", "--json", *settings.words, "port=0", f"time_scale={settings.time_scale}"),
        f"stream_interval={settings.stream_interval}",
    ]
    log = folder / "workers.log"
    with running(servegym_command(*words), log) as workers:
        urls = first_answer(workers, log)["urls"]
        assert isinstance(urls, list)
        period_s, pythons = settings.report_period_s, settings.pythons
        with front(contestant, urls, serving, period_s, pythons, folder / ROUTER_FOLDER) as url:
            return asyncio.run(drive(workload, [url], LoadSettings(settings.model, settings.time_scale)))


def report_age_s(folder: Path) -> float:
    """How old the reports were, in the mean, that decided in a run whose folder this is; 0 without any."""
    log = read_decision_log(folder / ROUTER_FOLDER / DECISIONS)
    ages_s = [each.age_s for each in log.decisions if math.isfinite(each.age_s)]
    return sum(ages_s) / len(ages_s) if ages_s else 0.0


def foretell(contestant: Contestant, workload: Workload, scenario: Scenario) -> Results | None:
    """The same in the simulator; None where that has nothing that does what the contestant does."""
    if contestant.simulated is None:
        return None
    policy = contestant.simulated
    (results,) = contender(policy, kind_of(policy), scenario).serve([workload], [0])
    return results
