"""`servegym tune`: how well a heuristic with given parameters does on training traffic, to be searched."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from omegaconf import MISSING, DictConfig
from rich.console import Console

from servegym.costmodels.errors import InputError
from servegym.envs.metrics import summarise
from servegym.envs.scenario.config import ScenarioConfig
from servegym.envs.scenario.stream import EpisodeStream
from servegym.experiments.configs import build_router, build_scenario, read_config


@dataclass
class TuneConfig:
    """Schema of `conf/tune.yaml`."""

    scenario: ScenarioConfig = MISSING
    router: Any = MISSING
    rebalancer: Any = None
    scheduler: Any = None
    metric: str = "mean_latency_s"
    episodes: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for key, least in (("episodes", 1), ("seed", 0)):
            value = getattr(self, key)
            if value < least:
                raise InputError(f"{key} = {value}: must be at least {least}")


def tune(config: DictConfig) -> dict[str, Any]:
    """Plays training episodes; the score is the mean of `metric` over them, lower being better.

    All settings see the same episodes, none of which is in the test part of the scenario. A metric that is to
    be large counts with a minus sign before its name: `metric=-goodput_rps`. InputError for a metric that
    there is none of.
    """
    settings = read_config(config, TuneConfig)
    scenario = build_scenario(settings.scenario, settings.rebalancer, settings.scheduler)
    router = build_router(settings.router, scenario)
    stream = EpisodeStream(scenario, "train")
    stream.restart(settings.seed)
    scores = []
    for _ in range(settings.episodes):
        workload = stream.next_workload()
        results = scenario.simulate(workload, router, seed=settings.seed)
        metrics = summarise(results, scenario.slo_limits(workload))
        scores.append(_signed(metrics, settings.metric))
    return {
        "scenario": scenario.name,
        "router": settings.router,
        "scheduler": settings.scheduler,
        "metric": settings.metric,
        "episodes": settings.episodes,
        "score": float(np.mean(scores)),
    }


def check(config: DictConfig) -> None:
    """InputError for what cannot be built, or cannot serve the scenario."""
    settings = read_config(config, TuneConfig)
    scenario = build_scenario(settings.scenario, settings.rebalancer, settings.scheduler)
    build_router(settings.router, scenario)


def score(answer: dict[str, Any]) -> float:
    """What a search minimises."""
    return float(answer["score"])


def show(answer: dict[str, Any]) -> None:
    """Prints the score."""
    names = "+".join(answer[key]["name"] for key in ("router", "scheduler") if answer[key])
    Console(soft_wrap=True, highlight=False).print(
        f"{names} on {answer['scenario']}: {answer['metric']} {answer['score']:.6g}, the mean of "
        f"{answer['episodes']} training episodes"
    )


def _signed(metrics: dict[str, float], name: str) -> float:
    """A metric, or with a minus sign before its name its negative."""
    wanted = name.removeprefix("-")
    if wanted not in metrics:
        near = get_close_matches(wanted, metrics, 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise InputError(f"metric = {name}: must be one of {', '.join(metrics)}{meant}")
    return -metrics[wanted] if name.startswith("-") else metrics[wanted]
