"""What policies make of the test workloads of a suite's scenarios: common random numbers, nothing dropped."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from servegym.agents.heuristics import ROUTERS
from servegym.agents.schedulers import SCHEDULERS
from servegym.agents.zoo import policy_folder
from servegym.costmodels.errors import InputError
from servegym.envs.metrics import SloLimits, summarise
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.simulate import Results
from servegym.envs.workloads import Workload
from servegym.experiments.evaluation.contenders import OWN_ORDER, contender, kind_of
from servegym.experiments.evaluation.statistics import Values

HEURISTICS: dict[str, tuple[str, ...]] = {
    "servegym/Routing-v0": tuple(ROUTERS),
    "servegym/Batching-v0": (OWN_ORDER, *SCHEDULERS),
    "servegym/TwoLevel-v0": (
        *ROUTERS,
        *(f"{router}+{scheduler}" for router in ROUTERS for scheduler in SCHEDULERS),
    ),
}
"""All that can play each environment, as far as a scenario has what they need."""

METRICS = (
    "mean_latency_s",
    "p99_latency_s",
    "mean_ttft_s",
    "p99_ttft_s",
    "mean_tpot_s",
    "longest_wait_s",
    "slo_attainment",
    "finished_share",
    "preemptions_per_request",
)
"""Kept of each run: of envs/metrics.summarise, and `longest_wait_s`, the longest time from an arrival to its
first iteration (or to the end of the client's patience), and `finished_share` of the requests."""

CLASS_METRICS = ("slo_attainment", "mean_latency_s", "p99_latency_s", "mean_ttft_s", "p99_ttft_s")
"""Kept of each SLO class."""


@dataclass(frozen=True)
class Entrant:
    """A policy of a suite: a heuristic, or what one agent learnt with each of several training seeds.

    name: as given. runs: what `contender` knows, one name a training seed.
    """

    name: str
    runs: tuple[str, ...]
    kind: str

    @property
    def is_learned(self) -> bool:
        """Whether it is no published rule."""
        return self.kind in ("run", "artifact")


@dataclass(frozen=True)
class Played:
    """Of each of METRICS float64 (T training runs, S test seeds); of each SLO class, means over the runs."""

    metrics: dict[str, Values]
    classes: dict[str, dict[str, float]]


@dataclass(frozen=True)
class NotPlayed:
    """Why there are no figures: the scenario lacks what the policy needs, or the policy failed on it."""

    status: Literal["does not apply", "failed"]
    why: str


def entrants_of(names: Sequence[str] | None, environment: str) -> list[Entrant]:
    """The policies named, heuristics first; all heuristics of the environment where none of them is named.

    A name with `*` stands for all folders that it matches, as one policy. InputError for unknown names, names
    given twice, and folders that hold no whole policy, before any work.
    """
    named = [_entrant(name) for name in names or ()]
    for each in named:
        if sum(each.name == other.name for other in named) > 1:
            raise InputError(f"policies: {each.name} is given twice")
    learned = [each for each in named if each.is_learned]
    heuristics = [each for each in named if not each.is_learned]
    if not heuristics:
        heuristics = [_entrant(name) for name in HEURISTICS[environment]]
    return heuristics + learned


def _entrant(name: str) -> Entrant:
    runs = tuple(sorted(path for path in glob.glob(name) if Path(path).is_dir())) if "*" in name else (name,)
    if not runs:
        raise InputError(f"policies: {name}: no folder matches; must be folders of training runs")
    kinds = {kind_of(run) for run in runs}
    if len(kinds) > 1:
        raise InputError(f"policies: {name}: must be runs or exported policies, not both")
    entrant = Entrant(name, runs, kinds.pop())
    for run in runs:
        _check_whole(run, entrant.kind)
    return entrant


def _check_whole(name: str, kind: str) -> None:
    """InputError where a folder holds no whole policy."""
    if kind == "run":
        from servegym.experiments.run_directory import load_run_policy

        load_run_policy(Path(name))
    elif kind == "artifact":
        from servegym.agents.serving.artifact.load import load_artifact

        load_artifact(policy_folder(name))


def play(
    entrant: Entrant, scenario: Scenario, workloads: Sequence[Workload], seeds: Sequence[int], metric: str
) -> Played | NotPlayed:
    """What the policy makes of the workload of each seed, the same for every policy.

    It has failed where it raises an error, or where `metric`, by which it is compared, is not a number.
    """
    try:
        contenders = [contender(run, entrant.kind, scenario) for run in entrant.runs]
    except InputError as error:
        return NotPlayed("does not apply", str(error))
    try:
        results = [each.serve(workloads, seeds) for each in contenders]
    except ValueError as error:  # an InputError, or an illegal action
        return NotPlayed("failed", str(error))
    limits = [scenario.slo_limits(workload) for workload in workloads]
    measured = [[_measure(*each) for each in zip(of_run, limits, strict=True)] for of_run in results]
    metrics = {name: np.array([[found[name] for found in of_run] for of_run in measured]) for name in METRICS}
    if not np.isfinite(metrics[metric]).all():
        return NotPlayed("failed", f"{metric} is not a number on every seed")
    return Played(metrics, _by_class(results, workloads, limits))


def _measure(results: Results, limits: SloLimits) -> dict[str, float]:
    summary = summarise(results, limits)
    ends_s = np.fmin(results.scheduled_s, results.cancelled_s)
    summary["longest_wait_s"] = float(np.fmax.reduce(ends_s - results.arrival_s))
    summary["finished_share"] = summary["num_finished"] / summary["num_requests"]
    return summary


def _by_class(
    results: list[list[Results]], workloads: Sequence[Workload], limits: list[SloLimits]
) -> dict[str, dict[str, float]]:
    """Means over runs and seeds of CLASS_METRICS of the requests of each class; nothing without classes."""
    names = {each.name: i for i, each in enumerate(workloads[0].slo_classes)}
    found: dict[str, dict[str, float]] = {}
    for name, number in names.items():
        summaries = []
        for of_run in results:
            for served, workload, limit in zip(of_run, workloads, limits, strict=True):
                which = np.asarray(workload.slo_class == number)
                if which.any():
                    own = SloLimits(*(np.broadcast_to(each, which.shape)[which] for each in limit))
                    summaries.append(summarise(_take(served, which), own))
        if summaries:
            found[name] = {
                metric: float(np.mean([summary[metric] for summary in summaries])) for metric in CLASS_METRICS
            }
    return found


def _take(results: Results, which: npt.NDArray[np.bool_]) -> Results:
    columns = {
        each.name: getattr(results, each.name)[which] for each in fields(Results) if each.name != "log"
    }
    return replace(results, log=None, **columns)
