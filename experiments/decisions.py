"""`servegym decisions`: what a router in a real serving system has decided, and what to learn from it."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING, DictConfig
from rich.console import Console
from rich.table import Table

from servegym.costmodels.output_file import output_file
from servegym.envs.routing.logged import logged_actions, logged_observations
from servegym.envs.workloads.decision_log import (
    UNKNOWN_TOKENS,
    DecisionLogContents,
    LoggedDecision,
    read_decision_log,
)
from servegym.experiments.configs import read_config


@dataclass
class DecisionsConfig:
    """Schema of `conf/decisions.yaml`."""

    log: str = MISSING
    out: str | None = None


def decisions(config: DictConfig) -> dict[str, Any]:
    """Says what the log `log` holds, and writes its decisions as arrays to `out` (envs/routing/logged.py).

    InputError where it cannot be read, or not be learned from though `out` is given.
    """
    settings = read_config(config, DecisionsConfig)
    log = read_decision_log(settings.log)
    if settings.out is not None:
        arrays: dict[str, Any] = {**logged_observations(log), **logged_actions(log)}
        with output_file(Path(settings.out)) as file:
            np.savez_compressed(file, **arrays)
    made = log.decisions
    return {
        "log": settings.log,
        "decisions": len(made),
        "seconds": max(each.at_s for each in made) - min(each.at_s for each in made),
        "with_rows": sum(each.rows is not None for each in made),
        "replicas": dict(Counter(each.replica for each in made).most_common()),
        "fallbacks": dict(Counter(each.fallback for each in made if each.fallback).most_common()),
        "refused": log.refused,
        "failed": sum(each.ended is not None and not each.ended.ok for each in made),
        "unfinished": sum(each.ended is None for each in made),
        "unknown_lengths": sum(
            each.ended is not None and each.ended.ok and each.ended.output_tokens == UNKNOWN_TOKENS
            for each in made
        ),
        "cut_off_lines": log.cut_off,
        "decision_us": _percentiles(np.array([1e6 * each.took_s for each in made])),
        "policies": _by_policy(made),
        "shadow": _shadow(log),
        "out": settings.out,
    }


def show(answer: dict[str, Any]) -> None:
    """Prints how many there were, of whom, and how the requests fared."""
    console = Console(soft_wrap=True, highlight=False)
    took = answer["decision_us"]
    console.print(
        f"{answer['decisions']:,} decisions in {answer['seconds']:,.1f} s over {len(answer['replicas'])} "
        f"replicas, {took['p50']:.0f} us each (P99 {took['p99']:.0f} us)"
    )
    console.print(
        f"{answer['refused']:,} requests refused, {answer['failed']:,} failed, {answer['unfinished']:,} "
        f"unfinished; {answer['cut_off_lines']:,} lines cut off"
    )
    if answer["unknown_lengths"]:
        console.print(f"{answer['unknown_lengths']:,} served, but how many tokens came is not known")
    table = Table("policy", "decisions", "served", "TTFT mean", "P99", "latency mean", "P99")
    for name, policy in answer["policies"].items():
        ttft, latency = policy["ttft_s"], policy["latency_s"]
        times = (ttft["mean"], ttft["p99"], latency["mean"], latency["p99"])
        table.add_row(
            name,
            f"{policy['decisions']:,}",
            f"{policy['served']:,}",
            *("" if time_s is None else f"{time_s:.3f} s" for time_s in times),
        )
    console.print(table)
    for reason, count in answer["fallbacks"].items():
        console.print(f"Fallback, {reason}: {count:,}")
    if answer["shadow"] is not None:
        shadow = answer["shadow"]
        console.print(f"In the shadow: {shadow['decisions']:,}, {shadow['agreement']:.1%} as was done")
    if answer["out"] is not None:
        console.print(f"{answer['with_rows']:,} decisions to learn from: {answer['out']}")


def _by_policy(made: list[LoggedDecision]) -> dict[str, Any]:
    names = Counter(each.policy for each in made)
    answer = {}
    for name, count in names.most_common():
        served = [each.ended for each in made if each.policy == name and each.ended and each.ended.ok]
        answer[name] = {
            "decisions": count,
            "served": len(served),
            "ttft_s": _percentiles(np.array([each.ttft_s for each in served if not math.isnan(each.ttft_s)])),
            "latency_s": _percentiles(np.array([each.latency_s for each in served])),
        }
    return answer


def _shadow(log: DecisionLogContents) -> dict[str, Any] | None:
    same = [each.shadow == each.replica for each in log.decisions if each.shadow]
    return {"decisions": len(same), "agreement": float(np.mean(same))} if same else None


def _percentiles(values: np.ndarray) -> dict[str, float | None]:
    if not len(values):
        return {"mean": None, "p50": None, "p99": None}
    p50, p99 = np.percentile(values, [50, 99]).tolist()
    return {"mean": float(values.mean()), "p50": p50, "p99": p99}
