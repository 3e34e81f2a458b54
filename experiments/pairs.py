"""`servegym pairs`: which router and which scheduler are best together, on a scenario or over a suite."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING, DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from servegym.costmodels.errors import InputError
from servegym.costmodels.output_file import output_file
from servegym.costmodels.progress import tracked
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.config import ScenarioConfig
from servegym.envs.suites import Suite
from servegym.experiments.configs import read_config, read_seeds
from servegym.experiments.evaluation.pairs import applicable_pairs, search_pairs
from servegym.experiments.provenance import versions

METRIC = "mean_latency_s"
"""Of a scenario that no suite gives another."""

SHOWN = 8
"""Pairs in the table of a scenario."""


@dataclass
class PairsConfig:
    """Schema of `conf/pairs.yaml`."""

    scenario: Any = MISSING
    suite: Suite | None = None
    routers: list[str] | None = None
    schedulers: list[str] | None = None
    seeds: Any = MISSING
    finalists: int = MISSING
    out: str | None = None

    def __post_init__(self) -> None:
        if self.finalists != MISSING and self.finalists < 1:
            raise InputError(f"finalists = {self.finalists}: must be at least 1")


def pairs(config: DictConfig) -> dict[str, Any]:
    """The mean of the metric of every pair on the test workloads of a scenario, or of each one of a suite.

    `scenarios`: of each its `metric`, the `best` pair, and of each pair its mean, `num_seeds` that it was
    simulated on and `ratio` of its mean to that of the best on the same seeds. `overall`: of pairs that apply
    to all scenarios the mean of these ratios, the best single pair first.
    """
    if OmegaConf.is_missing(config, "scenario"):
        config = config.copy()
        config.scenario = None
    settings = read_config(config, PairsConfig)
    seeds = read_seeds(settings.seeds)
    scenarios = {}
    for scenario, metric in tracked(_scenarios(settings), "All pairs", "scenarios"):
        found = search_pairs(
            applicable_pairs(scenario, settings.routers, settings.schedulers),
            [scenario.traffic.test_workload(seed) for seed in seeds],
            seeds,
            metric,
            settings.finalists,
        )
        if not found:
            raise InputError(f"{scenario.name}: none of the routers and schedulers given applies")
        best = next(iter(found))
        scenarios[scenario.name] = {
            "metric": metric,
            "best": best,
            "pairs": {
                name: {
                    "mean": float(values.mean()),
                    "ratio": float(values.mean() / found[best][: len(values)].mean()),
                    "num_seeds": len(values),
                }
                for name, values in found.items()
            },
        }
    answer = {
        "suite": None if settings.suite is None else settings.suite.name,
        "seeds": seeds,
        "scenarios": scenarios,
        "overall": _overall(scenarios),
        "versions": versions(),
    }
    if settings.out is not None:
        _write(Path(settings.out), scenarios)
    return answer


def _scenarios(settings: PairsConfig) -> list[tuple[Scenario, str]]:
    if (settings.suite is None) == (settings.scenario is None):
        raise InputError("scenario: give scenario=NAME or suite=NAME, and not both")
    if settings.suite is not None:
        suite = settings.suite
        if not suite.entries:
            raise InputError(f"suite = {suite.name}: has no scenarios; must be one that has")
        return [(suite.build(name), suite.metric_of(name)) for name in suite.entries]
    if not isinstance(settings.scenario, ScenarioConfig):
        raise InputError(f"scenario = {settings.scenario.name}: must be of LLM fleets, which have routers")
    return [(Scenario(settings.scenario), METRIC)]


def _overall(scenarios: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Of pairs that apply everywhere the mean ratio to the best of each scenario, the best first."""
    tables = [found["pairs"] for found in scenarios.values()]
    everywhere = set.intersection(*(set(table) for table in tables))
    ratios = {name: float(np.mean([table[name]["ratio"] for table in tables])) for name in everywhere}
    return dict(sorted(ratios.items(), key=lambda item: (item[1], item[0])))


def _write(path: Path, scenarios: dict[str, dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("scenario", "metric", "pair", "mean", "ratio", "num_seeds"))
    for name, found in scenarios.items():
        for pair, figures in found["pairs"].items():
            writer.writerow((name, found["metric"], pair, *figures.values()))
    with output_file(path) as file:
        file.write(text.getvalue().encode())


def show(answer: dict[str, Any]) -> None:
    """Prints the best pairs of each scenario, and over all."""
    console = Console()
    for name, found in answer["scenarios"].items():
        table = Table(title=f"{name}, {found['metric']}, the best of {len(found['pairs'])} pairs")
        table.add_column("pair")
        for column in ("mean", "of the best"):
            table.add_column(column, justify="right")
        for pair, figures in list(found["pairs"].items())[:SHOWN]:
            table.add_row(pair, f"{figures['mean']:.4g}", f"{figures['ratio']:.3f}")
        console.print(table)
    if len(answer["scenarios"]) > 1:
        table = Table(title="over all scenarios: mean ratio to the best pair of each")
        table.add_column("pair")
        table.add_column("ratio", justify="right")
        for pair, ratio in list(answer["overall"].items())[:SHOWN]:
            table.add_row(pair, f"{ratio:.3f}")
        console.print(table)
