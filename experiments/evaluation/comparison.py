"""What an evaluation has found, as numbers: policies compared on the same requests, seed by seed."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from servegym.envs.metrics import SloLimits, summarise
from servegym.envs.sim.llm.simulate import Results
from servegym.experiments.evaluation.statistics import Estimate, estimate, relative_change, verdict

TIMES = ("mean_ttft_s", "p99_ttft_s", "mean_tpot_s", "mean_latency_s", "p99_latency_s")
"""The summaries that policies are compared by; of all of them less is better."""

METRICS = (*TIMES, "slo_attainment", "preemptions_per_request")
"""The summaries that are shown; preemptions are often 0, which has no relative change."""

_GIVEN = ("prompt_tokens", "output_tokens")
"""What is the same of a request whatever a policy does."""

Rows = Iterator[tuple[object, ...]]


@dataclass(frozen=True)
class Evaluation:
    """Results of each policy, one for each of the `seeds`, in their order; `baseline` is one of the policies.

    limits: what the requests of each seed were promised. ValueError where the requests of one seed differ
    between policies: then nothing can be compared. (When a follow-up arrives may well differ.)
    """

    seeds: list[int]
    baseline: str
    results: dict[str, list[Results]]
    limits: list[SloLimits]

    def __post_init__(self) -> None:
        for policy, results in self.results.items():
            for seed, ours, theirs in zip(self.seeds, results, self.results[self.baseline], strict=True):
                if not all(np.array_equal(getattr(ours, name), getattr(theirs, name)) for name in _GIVEN):
                    raise ValueError(f"policy {policy}, seed {seed}: not the requests of {self.baseline}")

    @property
    def policies(self) -> list[str]:
        """The policies, in the order given."""
        return list(self.results)

    @functools.cached_property
    def summaries(self) -> dict[str, dict[str, np.ndarray]]:
        """Of each policy each entry of `summarise`, float64 (number of seeds,)."""
        return {
            policy: _columns([summarise(*each) for each in zip(results, self.limits, strict=True)])
            for policy, results in self.results.items()
        }

    @functools.cached_property
    def estimates(self) -> dict[str, dict[str, Estimate]]:
        """Of each policy each of METRICS."""
        return {
            policy: {metric: estimate(summary[metric]) for metric in METRICS}
            for policy, summary in self.summaries.items()
        }

    def change(self, policy: str, against: str, metric: str) -> Estimate:
        """The relative change of a metric from one policy to another on the same requests."""
        return relative_change(self.summaries[policy][metric], self.summaries[against][metric])

    @functools.cached_property
    def comparisons(self) -> list[dict[str, Any]]:
        """Every policy against every other in each of TIMES: change with its interval, and the verdict."""
        found = []
        for policy, against in permutations(self.policies, 2):
            for metric in TIMES:
                change = self.change(policy, against, metric)
                found.append(
                    {
                        "policy": policy,
                        "against": against,
                        "metric": metric,
                        "change": change.iqm,
                        "low": change.low,
                        "high": change.high,
                        "verdict": verdict(change),
                    }
                )
        return found

    def findings(self) -> dict[str, Any]:
        """What the command answers: seeds, baseline, an estimate for each policy and metric, comparisons."""
        return {
            "seeds": self.seeds,
            "baseline": self.baseline,
            "policies": {
                policy: {metric: found._asdict() for metric, found in estimates.items()}
                for policy, estimates in self.estimates.items()
            },
            "comparisons": self.comparisons,
        }

    def result_rows(self) -> Rows:
        """The rows of results.csv: one number for each policy, seed and entry of `summarise`."""
        yield "policy", "seed", "metric", "value"
        for policy, summary in self.summaries.items():
            for metric, values in summary.items():
                for seed, value in zip(self.seeds, values, strict=True):
                    yield policy, seed, metric, float(value)

    def summary_rows(self) -> Rows:
        """The rows of summary.csv: the estimate of each metric, and its change against the baseline."""
        yield (
            "policy",
            "metric",
            "iqm",
            "low",
            "high",
            "against",
            "change",
            "change_low",
            "change_high",
            "verdict",
        )
        for policy, estimates in self.estimates.items():
            for metric, found in estimates.items():
                row: tuple[object, ...] = (policy, metric, *found)
                if policy == self.baseline or metric not in TIMES:
                    yield (*row, "", "", "", "", "")
                else:
                    change = self.change(policy, self.baseline, metric)
                    yield (*row, self.baseline, *change, verdict(change))

    def comparison_rows(self) -> Rows:
        """The rows of comparisons.csv."""
        yield "policy", "against", "metric", "change", "low", "high", "verdict"
        for comparison in self.comparisons:
            yield tuple(comparison.values())


def _columns(rows: list[dict[str, float]]) -> dict[str, np.ndarray]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
