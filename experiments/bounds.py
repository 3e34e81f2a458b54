"""`servegym bounds`: what no policy can beat on a scenario, and how near to it routers come."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from omegaconf import MISSING, DictConfig
from rich.console import Console
from rich.table import Table

from servegym.agents.heuristics import ROUTERS
from servegym.costmodels.errors import InputError
from servegym.costmodels.progress import tracked
from servegym.envs.metrics import summarise
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.config import ScenarioConfig
from servegym.envs.workloads import Workload
from servegym.experiments.configs import read_config
from servegym.experiments.evaluation.contenders import configured_router
from servegym.experiments.provenance import versions

MEASURES = {
    "mean_latency_s": "mean latency, s",
    "mean_ttft_s": "mean TTFT, s",
    "goodput_rps": "goodput, requests/s",
    "makespan_s": "makespan, s",
}


@dataclass
class BoundsConfig:
    """Schema of `conf/bounds.yaml`."""

    scenario: ScenarioConfig = MISSING
    routers: list[str] = field(default_factory=list)
    seeds: list[int] = MISSING

    def __post_init__(self) -> None:
        for name in self.routers:
            if name not in ROUTERS:
                raise InputError(f"routers: {name}: must be one of {', '.join(ROUTERS)}")
        if self.seeds != MISSING and (not self.seeds or min(self.seeds) < 0):
            raise InputError(f"seeds = {self.seeds}: must be one or more numbers, each at least 0")


def bounds(config: DictConfig) -> dict[str, Any]:
    """Bounds of the test workload of each seed, and what the routers make of the same requests.

    Means over the seeds: `bounds` of each measure, `relaxations` that bound means of times, `routers` by
    name. `gap` is the best router's figure over the bound (of goodput the bound over it): 1 is optimal.
    """
    from servegym.agents.bounds import clairvoyant_bounds  # compiles, which `--help` must not

    settings = read_config(config, BoundsConfig)
    scenario = Scenario(settings.scenario)
    scenario.require_plain("servegym bounds")
    workloads = [scenario.traffic.test_workload(seed) for seed in settings.seeds]
    found = [
        clairvoyant_bounds(
            each, scenario.engine, scenario.cost, scenario.num_replicas, scenario.slo_limits(each)
        )
        for each in tracked(workloads, "Bounds", "workloads")
    ]
    relaxations = {
        f"mean_{name}": {
            kind: _mean([getattr(getattr(each, name), kind) for each in found])
            for kind in ("alone", "pooled", "priced")
        }
        for name in ("latency_s", "ttft_s")
    }
    limits = {
        "mean_latency_s": _mean([each.latency_s.best for each in found]),
        "mean_ttft_s": _mean([each.ttft_s.best for each in found]),
        "goodput_rps": _mean([each.goodput_rps for each in found]),
        "makespan_s": _mean([each.makespan_s for each in found]),
    }
    routers = {
        name: _figures(name, scenario, workloads, settings.seeds)
        for name in tracked(settings.routers, "Routers", "routers")
    }
    return {
        "scenario": scenario.name,
        "workload_source": scenario.traffic.source,
        "num_replicas": scenario.num_replicas,
        "seeds": settings.seeds,
        "num_requests": _mean([each.num_requests for each in workloads]),
        "load": _mean([each.load for each in found]),
        "on_time_share": _mean(
            [each.on_time / load.num_requests for each, load in zip(found, workloads, strict=True)]
        ),
        "bounds": limits,
        "relaxations": relaxations,
        "routers": routers,
        "gap": {name: _gap(name, limit, routers) for name, limit in limits.items()} if routers else {},
        "versions": versions(),
    }


def show(answer: dict[str, Any]) -> None:
    """Prints bounds and best routers as a table."""
    table = Table(title=f"What no policy beats on {answer['scenario']}, means of seeds {answer['seeds']}")
    table.add_column("measure")
    for column in ("bound", "best router", "gap"):
        table.add_column(column, justify="right")
    for name, title in MEASURES.items():
        row = [title, f"{answer['bounds'][name]:,.4g}"]
        if answer["routers"]:
            best = _best(name, answer["routers"])
            row += [f"{answer['routers'][best][name]:,.4g} {best}", f"{answer['gap'][name]:.3g}x"]
        table.add_row(*row)
    console = Console()
    console.print(table)
    for name, kinds in answer["relaxations"].items():
        parts = ", ".join(f"{kind} {value:.4g}" for kind, value in kinds.items())
        console.print(f"{MEASURES[name]}: {parts}", soft_wrap=True)
    console.print(
        f"Least load {answer['load']:.3g}; at most {answer['on_time_share']:.2%} of the requests can keep "
        f"both limits. Requests: {answer['workload_source']}.",
        soft_wrap=True,
    )


def _figures(name: str, scenario: Scenario, workloads: list[Workload], seeds: list[int]) -> dict[str, float]:
    router = configured_router(name, scenario)
    scenario.check_router(router)
    summaries = [
        summarise(scenario.simulate(workload, router, seed=seed), scenario.slo_limits(workload))
        for workload, seed in zip(workloads, seeds, strict=True)
    ]
    return {measure: _mean([each[measure] for each in summaries]) for measure in MEASURES}


def _best(measure: str, routers: dict[str, dict[str, float]]) -> str:
    pick = max if measure == "goodput_rps" else min
    return pick(routers, key=lambda name: routers[name][measure])


def _gap(measure: str, limit: float, routers: dict[str, dict[str, float]]) -> float:
    figure = routers[_best(measure, routers)][measure]
    high, low = (limit, figure) if measure == "goodput_rps" else (figure, limit)
    return high / low if low > 0 else float("inf")


def _mean(values: list[Any]) -> float:
    return float(np.mean(values))
