"""What an evaluation of a suite writes: small tables, nothing of single requests."""

import csv
import io
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from servegym.costmodels.output_folder import output_folder
from servegym.envs.suites import Suite
from servegym.experiments.evaluation.statistics import performance_profile
from servegym.experiments.evaluation.suite_report import suite_page, tally
from servegym.experiments.evaluation.suite_runs import CLASS_METRICS, METRICS, NotPlayed, Played
from servegym.experiments.evaluation.suite_scores import SuiteScores
from servegym.experiments.json_answer import to_json

PLOT = "profile.png"
FILES = (
    "scores.csv",
    "summary.csv",
    "scenarios.csv",
    "comparisons.csv",
    "classes.csv",
    "profiles.csv",
    "not_played.csv",
    "summary.md",
    "provenance.json",
    PLOT,
)

LEVELS = np.round(np.linspace(0.6, 1.6, 41), 3)
"""Scores that performance profiles are given at."""

DETAILED = 30
"""Heuristics, the best ones, of which there are scores by seed and profiles; summaries have all."""

Row = tuple[object, ...]


def write_suite(
    out: Path, suite: Suite, scores: SuiteScores, provenance: dict[str, Any], command: str
) -> None:
    """Writes FILES to `out`, which becomes complete or stays as it was."""
    tables: dict[str, Iterator[Row]] = {
        "scores.csv": _score_rows(scores),
        "summary.csv": _summary_rows(scores),
        "scenarios.csv": _scenario_rows(scores),
        "comparisons.csv": _comparison_rows(scores),
        "classes.csv": _class_rows(scores),
        "profiles.csv": _profile_rows(scores),
        "not_played.csv": _not_played_rows(scores),
    }
    with output_folder(out, FILES) as folder:
        for name, rows in tables.items():
            (folder / name).write_text(_as_csv(rows), encoding="utf-8")
        (folder / "summary.md").write_text(suite_page(suite, scores, command), encoding="utf-8")
        (folder / "provenance.json").write_text(to_json(provenance) + "\n", encoding="utf-8")
        _profiles(scores).savefig(folder / PLOT, dpi=120, bbox_inches="tight")


def detailed(scores: SuiteScores) -> list[str]:
    """Learned policies, the DETAILED best heuristics, and the best of each scenario."""
    learned = [each.name for each in scores.entrants if each.is_learned and each.name in scores.aggregates]
    heuristics = [name for name in scores.ranking if name not in learned][:DETAILED]
    return list(dict.fromkeys([*learned, *heuristics, *scores.best.values()]))


def _score_rows(scores: SuiteScores) -> Iterator[Row]:
    yield "scenario", "policy", "run", "seed", "score", *METRICS
    runs = {each.name: each.runs for each in scores.entrants}
    for entry, found in scores.entries.items():
        for policy in detailed(scores):
            played = found.played[policy]
            if not isinstance(played, Played):
                continue
            relative = scores.scores(policy, [entry])[0]
            for run, name in enumerate(runs[policy]):
                for i, seed in enumerate(scores.seeds):
                    figures = (played.metrics[metric][run, i] for metric in METRICS)
                    yield entry, policy, name, seed, relative[run, i], *figures


def _summary_rows(scores: SuiteScores) -> Iterator[Row]:
    heading = ("policy", "kind", "training_runs", "scenarios", "of", "score", "low", "high")
    yield *heading, "better", "level", "worse", "worst_scenario", "worst_change", "half_gap_scenarios"
    entrants = {each.name: each for each in scores.entrants}
    for name in scores.ranking:
        entrant, (counts, worst) = entrants[name], tally(scores, name)
        standings = [found[name] for found in scores.standings.values() if name in found]
        yield (
            name,
            "learned" if entrant.is_learned else "heuristic",
            len(entrant.runs),
            len(standings),
            len(scores.entries),
            *scores.aggregates[name],
            counts["better"],
            counts["undecided"] + counts["best"],
            counts["worse"],
            worst,
            scores.standings[worst][name].change.iqm,
            sum(each.gap_closed >= 0.5 for each in standings),
        )


def _scenario_rows(scores: SuiteScores) -> Iterator[Row]:
    heading = ("scenario", "policy", "metric", "best_heuristic", "bound", "mean", "score", "low", "high")
    yield *heading, "change", "change_low", "change_high", "verdict", "gap_closed"
    for entry, standings in scores.standings.items():
        bound = scores.entries[entry].bound
        least = "" if isinstance(bound, str) else bound.mean()
        for name, found in standings.items():
            mine = (entry, name, scores.entries[entry].metric, scores.best[entry], least, found.mean)
            yield *mine, *found.score, *found.change, found.verdict, found.gap_closed


def _comparison_rows(scores: SuiteScores) -> Iterator[Row]:
    names = ("score", "against_score", "change", "improvement")
    figures = (f"{name}{end}" for name in names for end in ("", "_low", "_high"))
    yield "policy", "against", "scenarios", *figures
    for each in scores.comparisons:
        yield (
            each.policy,
            each.against,
            each.scenarios,
            *(number for figure in each[3:] for number in figure),
        )


def _class_rows(scores: SuiteScores) -> Iterator[Row]:
    yield "scenario", "policy", "class", *CLASS_METRICS
    for entry, found in scores.entries.items():
        for policy in detailed(scores):
            played = found.played[policy]
            if isinstance(played, Played):
                for name, figures in played.classes.items():
                    yield entry, policy, name, *figures.values()


def _profile_rows(scores: SuiteScores) -> Iterator[Row]:
    yield "policy", *LEVELS
    for name in detailed(scores):
        yield name, *performance_profile(scores.scores(name, scores.played_by(name)), LEVELS)


def _not_played_rows(scores: SuiteScores) -> Iterator[Row]:
    yield "scenario", "policy", "status", "why"
    for entry, found in scores.entries.items():
        for policy, played in found.played.items():
            if isinstance(played, NotPlayed):
                yield entry, policy, played.status, played.why


def _as_csv(rows: Iterable[Row]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_short(cell) for cell in row] for row in rows)
    return text.getvalue()


def _short(cell: object) -> object:
    """Six digits of a number, which tells more than seeds do; nothing where there is none."""
    if isinstance(cell, float):
        return f"{cell:.6g}" if math.isfinite(cell) else ""
    return cell


def _profiles(scores: SuiteScores) -> Figure:
    """Performance profiles: learned policies, and the five best heuristics that played every scenario."""
    learned = [each.name for each in scores.entrants if each.is_learned and each.name in scores.aggregates]
    heuristics = [name for name in scores.ranking if name not in learned][:5]
    figure = Figure(figsize=(7.2, 4.2))
    axes = figure.subplots()
    for name in (*learned, *heuristics):
        profile = performance_profile(scores.scores(name, scores.played_by(name)), LEVELS)
        axes.step(LEVELS, profile, where="post", label=name, linewidth=2.2 if name in learned else 1.2)
    axes.axvline(1.0, color="#999999", linewidth=0.8)
    axes.set(
        xlabel="score: metric over the best heuristic's mean of that scenario",
        ylabel="share of runs with at most this score",
        xlim=(LEVELS[0], LEVELS[-1]),
        ylim=(0, 1),
    )
    axes.legend(loc="lower right", fontsize=8)
    return figure
