"""What an evaluation of a suite has found: scores, aggregates, who beats whom, how much is left to win."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.scenario import Scenario
from servegym.envs.workloads import Workload
from servegym.experiments.evaluation.statistics import (
    Estimate,
    Share,
    Values,
    probability_of_improvement,
    suite_change,
    suite_estimate,
    verdict,
)
from servegym.experiments.evaluation.suite_runs import Entrant, NotPlayed, Played

BOUNDED = {"mean_latency_s": "latency_s", "mean_ttft_s": "ttft_s"}
"""Metrics that `clairvoyant_bounds` bounds, and the name it has for them."""

BOUND_SEEDS = 3
"""Test seeds whose bound is computed, since each takes seconds."""


def bound_of(scenario: Scenario, workloads: list[Workload], metric: str) -> Values | str:
    """What no policy undercuts on the first BOUND_SEEDS workloads, or why nothing is known of it."""
    from servegym.agents.bounds import clairvoyant_bounds

    if metric not in BOUNDED:
        return f"no bound on {metric}"
    try:
        scenario.require_plain("the clairvoyant bound")
        bounds = [
            clairvoyant_bounds(
                each, scenario.engine, scenario.cost, scenario.num_replicas, scenario.slo_limits(each)
            )
            for each in workloads[:BOUND_SEEDS]
        ]
    except InputError as error:
        return str(error)
    return np.array([getattr(each, BOUNDED[metric]).best for each in bounds])


@dataclass(frozen=True)
class PlayedEntry:
    """One scenario of a suite: what each policy made of it, by name; its bound, or why there is none."""

    metric: str
    played: dict[str, Played | NotPlayed]
    bound: Values | str


class Standing(NamedTuple):
    """A policy on one scenario. mean: of the metric. score: the same over the best heuristic's mean.

    change: against the best heuristic on the same requests. gap_closed: the share of what lies between the
    best heuristic and the bound; not a number without a bound.
    """

    mean: float
    score: Estimate
    change: Estimate
    verdict: str
    gap_closed: float


class Comparison(NamedTuple):
    """Of two policies: how many scenarios both played, and there their aggregates, the change of the metric
    on the same requests, and the probability that a run of the first is better."""

    policy: str
    against: str
    scenarios: int
    iqm: Estimate
    against_iqm: Estimate
    change: Estimate
    improvement: Share


@dataclass(frozen=True)
class SuiteScores:
    """All figures of a suite; entries by name, with the same entrants in each."""

    seeds: list[int]
    entrants: list[Entrant]
    entries: dict[str, PlayedEntry]

    def __post_init__(self) -> None:
        for name in self.entries:
            if not self._heuristics_on(name):
                reasons = [
                    f"{policy}: {found.why}"
                    for policy, found in self.entries[name].played.items()
                    if isinstance(found, NotPlayed)
                ]
                raise InputError(f"suite: no heuristic ran on {name}, none to compare with ({reasons[0]})")

    def values(self, policy: str, entry: str) -> Values | None:
        """float64 (T, S): the metric of the entry; None where the policy did not play it."""
        found = self.entries[entry].played[policy]
        return found.metrics[self.entries[entry].metric] if isinstance(found, Played) else None

    @functools.cached_property
    def best(self) -> dict[str, str]:
        """Of each entry the heuristic whose mean over the seeds is least."""
        return {
            entry: min(found, key=lambda name: found[name])
            for entry in self.entries
            for found in [self._heuristics_on(entry)]
        }

    def _heuristics_on(self, entry: str) -> dict[str, float]:
        found = {each.name: self.values(each.name, entry) for each in self.entrants if not each.is_learned}
        return {name: float(values.mean()) for name, values in found.items() if values is not None}

    def of_best(self, entry: str) -> Values:
        """float64 (S,): the metric of the best heuristic."""
        values = self.values(self.best[entry], entry)
        assert values is not None
        return np.asarray(values[0])

    def played_by(self, policy: str) -> list[str]:
        """The entries that a policy played, in order."""
        return [entry for entry in self.entries if self.values(policy, entry) is not None]

    def scores(self, policy: str, entries: list[str]) -> Values:
        """float64 (C, T, S): of entries that it played, the metric over the best heuristic's mean."""
        found = [(self.values(policy, entry), self.of_best(entry).mean()) for entry in entries]
        return np.stack([values / least for values, least in found if values is not None])

    @functools.cached_property
    def aggregates(self) -> dict[str, Estimate]:
        """Of each policy that played at all, over the entries that it played."""
        played = {each.name: self.played_by(each.name) for each in self.entrants}
        return {
            name: suite_estimate(self.scores(name, entries)) for name, entries in played.items() if entries
        }

    @functools.cached_property
    def ranking(self) -> list[str]:
        """Policies that played every entry, the best aggregate first, then the others likewise."""
        return sorted(
            self.aggregates,
            key=lambda name: (len(self.played_by(name)) < len(self.entries), self.aggregates[name].iqm),
        )

    @functools.cached_property
    def standings(self) -> dict[str, dict[str, Standing]]:
        """By entry and policy that played it."""
        return {
            entry: {
                name: self._standing(name, entry) for name in self.aggregates if entry in self.played_by(name)
            }
            for entry in self.entries
        }

    def _standing(self, policy: str, entry: str) -> Standing:
        values, best = self.values(policy, entry), self.of_best(entry)
        assert values is not None
        change = suite_change(values[None], best[None, None])
        return Standing(
            mean=float(values.mean()),
            score=suite_estimate(self.scores(policy, [entry])),
            change=change,
            verdict="best" if policy == self.best[entry] else verdict(change),
            gap_closed=self._gap_closed(values, best, self.entries[entry].bound),
        )

    def _gap_closed(self, values: Values, best: Values, bound: Values | str) -> float:
        if isinstance(bound, str):
            return float("nan")
        count = len(bound)
        gap = best[:count].mean() - bound.mean()
        return float((best[:count].mean() - values[:, :count].mean()) / gap)

    @functools.cached_property
    def comparisons(self) -> list[Comparison]:
        """Each learned policy against all others; without any, the best heuristic against the others."""
        learned = [each.name for each in self.entrants if each.is_learned and each.name in self.aggregates]
        return [
            self._comparison(policy, against)
            for policy in learned or self.ranking[:1]
            for against in self.ranking
            if against != policy and self._common(policy, against)
        ]

    def _common(self, policy: str, against: str) -> list[str]:
        others = self.played_by(against)
        return [entry for entry in self.played_by(policy) if entry in others]

    def _comparison(self, policy: str, against: str) -> Comparison:
        common = self._common(policy, against)
        scores, others = self.scores(policy, common), self.scores(against, common)
        return Comparison(
            policy,
            against,
            len(common),
            suite_estimate(scores),
            suite_estimate(others),
            suite_change(scores, others),
            probability_of_improvement(scores, others),
        )
