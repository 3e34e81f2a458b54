"""Evaluations of policies on a scenario, in a report: training seeds of one configuration taken together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from servegym.experiments.evaluation.comparison import METRICS, TIMES
from servegym.experiments.evaluation.statistics import (
    FEWEST_SEEDS,
    Estimate,
    estimate,
    suite_change,
    suite_estimate,
    verdict,
)
from servegym.experiments.evaluation.tables import percent
from servegym.experiments.reporting.figure import Values
from servegym.experiments.reporting.profiles import profile_figure
from servegym.experiments.reporting.quantities import quantity
from servegym.experiments.reporting.runs import Run, distinct_labels, grouped
from servegym.experiments.reporting.section import Choice, Section
from servegym.experiments.reporting.table import DASH, Cell, Table, interval_text, number_cell
from servegym.experiments.studies.record import RunRecord

PROFILED = ("mean_latency_s", "mean_ttft_s")
"""Metrics of the performance profiles."""

Results = dict[str, dict[str, Values]]
"""By policy as evaluated and metric one value for each seed (S,)."""


@dataclass
class Evaluated:
    """What one or more evaluations found of the same requests: baseline, and results by policy."""

    scenario: str
    seeds: tuple[str, ...]
    baseline: str
    results: Results

    def takes_in(self, other: "Evaluated") -> bool:
        """Whether both are of the same requests: then what both have evaluated came out the same."""
        shared = set(self.results) & set(other.results)
        return (
            self.seeds == other.seeds
            and self.baseline == other.baseline
            and all(
                np.array_equal(self.results[policy][metric], other.results[policy][metric])
                for policy in shared
                for metric in TIMES
            )
        )


def evaluation_section(read: Sequence[tuple[Run, Evaluated]], runs: Sequence[Run]) -> Section | None:
    """Tables with intervals, and profiles over all scenarios and seeds; nothing without evaluations.

    runs: all of the report, among them perhaps the training runs that were evaluated.
    """
    found: list[Evaluated] = []
    for _, each in read:
        same = next((one for one in found if one.takes_in(each)), None)
        if same is None:
            found.append(each)
        else:
            same.results |= {**each.results, **same.results}
    if not found:
        return None
    names = distinct_names([each.scenario for each in found])
    policies = _training_seeds(found, runs)
    scores = {metric: _scores(found, policies, metric) for metric in PROFILED}
    profiles = {
        quantity(metric).heading: profile_figure(
            ("profile", metric),
            f"Performance profile: {quantity(metric).heading}",
            f"{quantity(metric).heading} over that of the baseline, mean over seeds, on the same scenario",
            by_policy,
        )
        for metric, by_policy in scores.items()
        if by_policy
    }
    return Section(
        "Policies compared",
        [
            "All policies of an evaluation serve the very same requests. A cell is the interquartile mean "
            "over seeds: the mean of the middle half. Below it is its 95 % bootstrap interval. Training "
            "runs of one configuration but for the seed are one policy: its interval is a stratified "
            "bootstrap that draws training runs and test seeds anew (Agarwal et al., NeurIPS 2021).",
            "Green is better and red is worse than the baseline: the interval of the change, paired by seed, "
            "excludes 0.",
        ],
        [_table(each, name, policies) for each, name in zip(found, names, strict=True)]
        + ([Choice("Metric", profiles)] if profiles else []),
    )


def distinct_names(names: Sequence[str]) -> list[str]:
    """Names with a number where several are the same."""
    return [
        name if names.count(name) == 1 else f"{name} ({names[: i + 1].count(name)})"
        for i, name in enumerate(names)
    ]


def read_evaluation(run: Run) -> Evaluated:
    """From the files of an evaluation. The baseline is what others are measured against."""
    results: dict[str, dict[str, list[float]]] = {}
    seeds: dict[str, None] = {}
    for row in run.rows("results.csv"):
        seeds.setdefault(row["seed"])
        results.setdefault(row["policy"], {}).setdefault(row["metric"], []).append(
            float(row["value"] or "nan")
        )
    against = [row["against"] for row in run.rows("summary.csv") if row["against"]]
    baseline = against[0] if against else next(iter(results))
    scenario = run.json("evaluation.json").get("scenario") or _scenario_of_parent(run)
    values = {
        policy: {metric: np.array(each) for metric, each in of_policy.items()}
        for policy, of_policy in results.items()
    }
    return Evaluated(scenario, tuple(seeds), baseline, values)


def _scenario_of_parent(run: Run) -> str:
    """Of an evaluation that does not say: by the run that it is in, or its own folder."""
    parent = Run(RunRecord(run.path.parent, "train"))
    return str(parent.json("provenance.json").get("scenario", run.path.name))


def _training_seeds(found: Sequence[Evaluated], runs: Sequence[Run]) -> dict[str, list[str]]:
    """Policies as shown, and of each the names under which it was evaluated: one for each training run."""
    trained = [run for run in runs if run.kind == "train" and run.config]
    evaluated = dict.fromkeys(name for each in found for name in each.results)
    learned = {name: run for name in evaluated if (run := _run_called(name, trained))}
    by_folder = {run.path: name for name, run in learned.items()}
    groups = grouped(learned.values(), "seed")
    names = [
        f"{each[0].config['agent']['algorithm']} {each[0].config['agent']['network']}" for each in groups
    ]
    labels = distinct_labels(names, [each[0].settings("seed") for each in groups])
    policies = {
        f"{label} ({len(group)} training {'run' if len(group) == 1 else 'runs'})": [
            by_folder[run.path] for run in group
        ]
        for label, group in zip(labels, groups, strict=True)
    }
    return policies | {name: [name] for name in evaluated if name not in learned}


def _run_called(name: str, trained: Sequence[Run]) -> Run | None:
    """The only training run whose folder ends in a name, which was relative to where it was evaluated."""
    words = Path(name).parts
    found = [run for run in trained if run.path.resolve().parts[-len(words) :] == words]
    return found[0] if len(found) == 1 else None


def _values(evaluated: Evaluated, names: Sequence[str], metric: str) -> Values | None:
    """(1, T, S) of the training runs that were evaluated here; None without any."""
    there = [evaluated.results[name][metric] for name in names if metric in evaluated.results.get(name, {})]
    return np.array([there]) if there else None


def _table(evaluated: Evaluated, name: str, policies: dict[str, list[str]]) -> Table:
    rows = []
    for policy, names in policies.items():
        if not any(each in evaluated.results for each in names):
            continue
        row = [Cell(policy, "baseline" if policy == evaluated.baseline else "")]
        for metric in METRICS:
            values = _values(evaluated, names, metric)
            against = evaluated.results[evaluated.baseline].get(metric)
            if values is None or against is None or not np.isfinite(values).all():
                row.append(Cell(DASH))
                continue
            row.append(_cell(values, against, metric, policy == evaluated.baseline))
        rows.append(row)
    columns = [("policy", "")] + [(quantity(metric).heading, quantity(metric).unit) for metric in METRICS]
    caption = f"{len(evaluated.seeds)} seeds; changes are against {evaluated.baseline}."
    return Table(name, caption, columns, rows)


def _cell(values: Values, against: Values, metric: str, is_baseline: bool) -> Cell:
    found = _estimate(values)
    factor = quantity(metric).factor
    detail = interval_text(found.low * factor, found.high * factor)
    style = ""
    if metric in TIMES and not is_baseline:
        change = suite_change(values, against[None, None])
        if np.isfinite(change.iqm):
            style = verdict(change)
            detail += f"; {percent(change.iqm)}"
    return number_cell(found.iqm * factor, detail=detail, style=style)


def _estimate(values: Values) -> Estimate:
    if values.size < FEWEST_SEEDS:
        return Estimate(float(values.mean()), np.nan, np.nan)
    return estimate(values.ravel()) if values.shape[1] == 1 else suite_estimate(values)


def _scores(found: Sequence[Evaluated], policies: dict[str, list[str]], metric: str) -> dict[str, Values]:
    """Of each policy (C, T, S): the metric over the baseline's mean, where it played all scenarios alike."""
    scores = {}
    for policy, names in policies.items():
        of_scenarios = []
        for each in found:
            values = _values(each, names, metric)
            if values is not None:
                of_scenarios.append(values[0] / each.results[each.baseline][metric].mean())
        alike = len({values.shape for values in of_scenarios}) == 1
        if alike and len(of_scenarios) == len(found) and np.isfinite(of_scenarios).all():
            scores[policy] = np.array(of_scenarios)
    return scores
