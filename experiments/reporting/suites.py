"""Evaluations of policies on whole suites, in a report."""

from collections.abc import Sequence

import numpy as np

from servegym.experiments.evaluation.tables import percent
from servegym.experiments.reporting.figure import Values
from servegym.experiments.reporting.profiles import profile_figure
from servegym.experiments.reporting.quantities import quantity
from servegym.experiments.reporting.runs import Run
from servegym.experiments.reporting.section import Part, Section
from servegym.experiments.reporting.table import DASH, Cell, Table, interval_text, number_cell

MOST_PROFILES = 8
"""Policies of which profiles are drawn: those that stand first in the summary."""


def suite_section(read: Sequence[tuple[Run, list[Part]]]) -> Section | None:
    """Per suite: scores, profiles, each scenario and pairs; nothing without suites."""
    if not read:
        return None
    return Section(
        "Suites",
        [
            "A suite is a fixed list of scenarios. The score of a run is its metric over the mean of the "
            "best heuristic on that scenario: 1 is as good as that heuristic, which is another one from "
            "scenario to scenario; less is better. Scores are interquartile means over all scenarios, "
            "training runs and test seeds with 95 % stratified bootstrap intervals (Agarwal et al., "
            "NeurIPS 2021).",
        ],
        [part for _, parts in read for part in parts],
    )


def read_suite(run: Run) -> list[Part]:
    """The tables and profiles of one evaluation of a suite."""
    name = str(run.record.provenance.get("suite", run.path.name))
    scores, summary = _scores(run), run.rows("summary.csv")
    shown = [row["policy"] for row in summary if row["policy"] in scores][:MOST_PROFILES]
    parts: list[Part] = [_summary_table(name, summary, run)]
    if shown:
        score = "metric over the best heuristic's mean of that scenario"
        title = f"Performance profile: suite {name}"
        parts.append(profile_figure(("profile", "suite", name), title, score, scores, shown))
    parts.append(_scenarios_table(name, run))
    if (run.path / "comparisons.csv").is_file():
        parts.append(_comparisons_table(name, run))
    return parts


def _scores(run: Run) -> dict[str, Values]:
    """Of each policy that played every scenario with all runs and seeds: (C, T, S)."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    scenarios: dict[str, None] = {}
    for row in run.rows("scores.csv"):
        scenarios.setdefault(row["scenario"])
        by_run = found.setdefault(row["policy"], {}).setdefault(row["scenario"], {})
        by_run.setdefault(row["run"], []).append(float(row["score"] or "nan"))
    scores = {}
    for policy, by_scenario in found.items():
        lengths = {len(values) for by_run in by_scenario.values() for values in by_run.values()}
        counts = {len(by_run) for by_run in by_scenario.values()}
        if len(by_scenario) == len(scenarios) and len(lengths) == len(counts) == 1:
            array = np.array([list(by_run.values()) for by_run in by_scenario.values()])
            if np.isfinite(array).all():
                scores[policy] = array
    return scores


def _summary_table(name: str, summary: Sequence[dict[str, str]], run: Run) -> Table:
    rows = [
        [
            Cell(row["policy"], row["kind"]),
            number_cell(float(row["training_runs"]), ",.0f"),
            _with_interval(row, "score", "low", "high", ".3f"),
            *(number_cell(float(row[key]), ",.0f") for key in ("better", "level", "worse")),
            Cell(row["worst_scenario"], percent(_number(row["worst_change"]))),
            Cell(f"{row['scenarios']} of {row['of']}", number=float(row["scenarios"])),
        ]
        for row in summary
    ]
    headings = ("policy", "training runs", "score", "better", "level", "worse", "worst scenario", "played")
    seeds = len(run.record.provenance.get("seeds", ()))
    caption = (
        f"From {run.name}; {seeds} test seeds. Better, level, worse: scenarios on which the policy is so "
        "against the best heuristic there. Worst scenario: where its change against that heuristic is "
        "largest."
    )
    return Table(f"Suite {name}", caption, [(heading, "") for heading in headings], rows)


def _scenarios_table(name: str, run: Run) -> Table:
    rows = []
    for row in run.rows("scenarios.csv"):
        shown = quantity(row["metric"])
        change = _number(row["change"])
        ends = interval_text(100 * _number(row["change_low"]), 100 * _number(row["change_high"]), "+.1f")
        verdict = row["verdict"] if row["verdict"] in ("better", "worse", "undecided") else ""
        rows.append(
            [
                Cell(row["scenario"]),
                Cell(row["policy"]),
                Cell(shown.heading, shown.unit),
                number_cell(_number(row["mean"]) * shown.factor),
                _with_interval(row, "score", "low", "high", ".3f"),
                Cell(percent(change), ends, change, verdict) if np.isfinite(change) else Cell(DASH),
                Cell(row["verdict"]),
            ]
        )
    headings = ("scenario", "policy", "metric", "mean", "score", "change", "verdict")
    return Table(
        f"Suite {name}, scenario by scenario",
        "Change: against the best heuristic of the scenario, on the same requests.",
        [(heading, "") for heading in headings],
        rows,
        ("scenario", "policy", "metric", "verdict"),
    )


def _comparisons_table(name: str, run: Run) -> Table:
    rows = [
        [
            Cell(row["policy"]),
            Cell(row["against"]),
            _with_interval(row, "score", "score_low", "score_high", ".3f"),
            _with_interval(row, "against_score", "against_score_low", "against_score_high", ".3f"),
            _with_interval(row, "change", "change_low", "change_high", "+.1%"),
            _with_interval(row, "improvement", "improvement_low", "improvement_high", ".1%"),
        ]
        for row in run.rows("comparisons.csv")
    ]
    headings = ("policy", "against", "score", "its score", "change", "probability of improvement")
    return Table(
        f"Suite {name}, in pairs",
        "Probability of improvement: how likely a run of the policy has a lower score than a run of the "
        "other, mean over the scenarios that both played.",
        [(heading, "") for heading in headings],
        rows,
        ("policy", "against"),
    )


def _with_interval(row: dict[str, str], value: str, low: str, high: str, form: str) -> Cell:
    ends = interval_text(_number(row[low]), _number(row[high]), form)
    return number_cell(_number(row[value]), form, ends)


def _number(text: str) -> float:
    return float(text) if text else float("nan")
