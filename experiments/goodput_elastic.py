"""`servegym goodput` with a scenario of elastic sequence parallelism: the largest rate at each of its
lines."""

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from omegaconf import MISSING, DictConfig
from rich.console import Console
from rich.table import Table

from servegym.costmodels.errors import InputError
from servegym.costmodels.progress import tracked
from servegym.envs.elastic_scenario import ElasticScenario
from servegym.envs.elastic_scenario.config import ElasticScenarioConfig
from servegym.envs.workloads import Workload
from servegym.experiments.answer_folder import check_answer_folder, write_answer_folder
from servegym.experiments.configs import build_elastic_system, read_config, read_seeds
from servegym.experiments.evaluation.elastic_lines import ATTAINMENT, largest_rates, limits_of
from servegym.experiments.evaluation.statistics import estimate

ANSWER_FILE = "goodput.json"

MOST_STEPS = 10
"""Doublings or halvings of the scenario's rate, until a line is given up."""


@dataclass
class GoodputElasticConfig:
    """Schema of `conf/goodput_elastic.yaml`."""

    scenario: ElasticScenarioConfig = MISSING
    policy: Any = MISSING
    requests: int | None = None
    seeds: Any = MISSING  # a number of seeds, or a list of them
    tolerance: float = MISSING
    out: str | None = None

    def __post_init__(self) -> None:
        if self.requests is not None and self.requests < 2:
            raise InputError(f"requests = {self.requests}: must be null, or at least 2")
        if self.tolerance != MISSING and not 0 < self.tolerance < 1:
            raise InputError(f"tolerance = {self.tolerance}: must be above 0 and below 1")


def goodput_elastic(config: DictConfig) -> dict[str, Any]:
    """Searches the largest rate at which each line of the scenario is kept, with every seed.

    Returns scenario, policy as configured, seeds, requests of a run, and lines: of each by its name limit,
    goodput_rps (the interquartile mean over the seeds), interval (its 95 % bootstrap interval), rates_rps by
    seed, and reason: why there is none, else null. With `out` the same is written there.
    """
    settings = read_config(config, GoodputElasticConfig)
    check_answer_folder(settings.out, ANSWER_FILE)
    seeds = read_seeds(settings.seeds)
    given = settings.scenario
    if settings.requests is not None:
        given = replace(given, workload=replace(given.workload, requests=settings.requests))
    scenario = ElasticScenario(given)
    system = build_elastic_system(settings.policy)
    limits = limits_of(scenario)
    rates: dict[str, list[float]] = {name: [] for name in limits}
    for seed in tracked(seeds, "Largest rates", "seeds"):
        workload = scenario.traffic.test_workload(seed)
        found = largest_rates(
            scenario,
            system,
            functools.partial(_at_rate, workload),
            tuple(limits),
            given.workload.rate_rps,
            settings.tolerance,
            MOST_STEPS,
        )
        for name, rate in found.items():
            rates[name].append(rate)
    answer = {
        "scenario": scenario.name,
        "policy": settings.policy,
        "seeds": seeds,
        "requests": given.workload.requests,
        "lines": {
            name: {"limit": limits[name], **_described(rates[name], given.workload.rate_rps)}
            for name in limits
        },
    }
    write_answer_folder(settings, ANSWER_FILE, "goodput", answer)
    return answer


def show(answer: dict[str, Any]) -> None:
    """Prints the rates as a table."""
    seeds = f"{len(answer['seeds'])} seeds of {answer['requests']:,} requests"
    table = Table(title=f"{answer['policy']['name']} on {answer['scenario']}, {seeds}")
    for column in ("line", "limit", "requests/s", "interval"):
        table.add_column(column, justify="left" if column == "line" else "right")
    for name, found in answer["lines"].items():
        limit = f"{found['limit']:.0%}" if name == ATTAINMENT else f"{found['limit'] * 1e3:g} ms a token"
        low, high = found["interval"]
        rate = f"{found['goodput_rps']:,.4g}" if math.isfinite(found["goodput_rps"]) else "any"
        table.add_row(name, limit, rate, f"{low:,.4g} to {high:,.4g}")
    console = Console()
    console.print(table)
    for name, found in answer["lines"].items():
        if found["reason"]:
            console.print(f"{name}: {found['reason']}", soft_wrap=True)


def _at_rate(workload: Workload, rate_rps: float) -> Workload:
    return workload.scale_rate(rate_rps / workload.rate_rps)


def _described(rates: list[float], first_rps: float) -> dict[str, Any]:
    """The figures of a line, and in words where some seeds have none."""
    reason = None
    never, always = rates.count(0.0), rates.count(math.inf)
    if never:
        lowest = first_rps / 2**MOST_STEPS
        reason = (
            f"not kept at any rate tried, down to {lowest:.3g} requests/s, with {never} of {len(rates)} seeds"
        )
    if always:
        highest = first_rps * 2**MOST_STEPS
        reason = (
            f"kept at every rate tried, up to {highest:.3g} requests/s, with {always} of {len(rates)} seeds"
        )
        return {"goodput_rps": math.inf, "interval": [math.inf] * 2, "rates_rps": rates, "reason": reason}
    rate = estimate(np.array(rates))
    interval = [rate.low, rate.high]
    return {"goodput_rps": rate.iqm, "interval": interval, "rates_rps": rates, "reason": reason}
