"""Training runs in a report: learning curves over training seeds."""

from collections.abc import Sequence

import numpy as np

from servegym.experiments.evaluation.statistics import CONFIDENCE, ENOUGH_SEEDS
from servegym.experiments.reporting.figure import Axis, Figure, Series, Values, file_name
from servegym.experiments.reporting.quantities import capitalised, quantity
from servegym.experiments.reporting.runs import Run, distinct_labels, grouped
from servegym.experiments.reporting.section import Choice, Part, Section

PROGRESS = ("steps", "elapsed_s", "episodes")
"""Columns of training.csv that say how far a run has come, not how well."""

PLACES = 200
"""Numbers of decisions that a mean curve is drawn at."""

RESAMPLES = 2000

Curve = dict[str, Values]
"""Columns of training.csv."""


def training_section(read: Sequence[tuple[Run, Curve]]) -> Section | None:
    """A figure for each metric of what was trained on; nothing without training curves."""
    trained = [(run, curve) for run, curve in read if len(curve.get("steps", ())) > 1]
    if not trained:
        return None
    by_subject: dict[str, list[Run]] = {}
    curves = {run.path: curve for run, curve in trained}
    for (run, _), subject in zip(trained, _subjects([run for run, _ in trained]), strict=True):
        by_subject.setdefault(subject, []).append(run)
    choices: list[Part] = []
    fewest = ENOUGH_SEEDS
    for subject, runs in by_subject.items():
        groups = grouped(runs, "seed")
        agents = _agents([each[0] for each in groups])
        of_agent = {
            agent: [curves[run.path] for run in group] for agent, group in zip(agents, groups, strict=True)
        }
        fewest = min(fewest, *map(len, groups))
        metrics = dict.fromkeys(name for several in of_agent.values() for each in several for name in each)
        figures = {
            quantity(metric).heading: _figure(subject, of_agent, metric)
            for metric in metrics
            if metric not in PROGRESS
        }
        choices.append(Choice("Metric", figures))
    few = (
        f" Some curves are of fewer than {ENOUGH_SEEDS} training seeds; their bands are too narrow."
        if fewest < ENOUGH_SEEDS
        else ""
    )
    return Section(
        "Learning curves",
        [
            "What training episodes came to as agents learnt, by the number of decisions made. Runs of "
            "the same configuration but for the seed are one curve: the mean over training seeds between "
            "the first and the last decision that all have, and its 95 % bootstrap interval over seeds as "
            f"a band. A single training seed has no band.{few}",
            "Training episodes are not the requests that policies are tested on, and agents explore in them: "
            "what a policy is worth is in the tables of results.",
        ],
        choices,
    )


def mean_curve(
    steps: Sequence[Values], values: Sequence[Values]
) -> tuple[Values, Values, Values | None, Values | None]:
    """Where all curves are, their mean, and the ends of its bootstrap interval, None of a single one.

    Curves are joined linearly between their points. Without a common part each stands by its own: the first.
    """
    start, end = max(each[0] for each in steps), min(each[-1] for each in steps)
    if len(steps) == 1 or start >= end:
        return steps[0], values[0], None, None
    inside = np.unique(np.concatenate([each[(each >= start) & (each <= end)] for each in steps]))
    places = inside if len(inside) <= PLACES else np.linspace(start, end, PLACES)
    curves = np.array([np.interp(places, x, y) for x, y in zip(steps, values, strict=True)])
    drawn = np.random.default_rng(0).integers(len(curves), size=(RESAMPLES, len(curves)))
    weights = (drawn[:, :, None] == np.arange(len(curves))).mean(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(weights @ curves, [tail, 1 - tail], axis=0)
    return places, curves.mean(axis=0), low, high


def _figure(subject: str, agents: dict[str, list[Curve]], metric: str) -> Figure:
    shown = quantity(metric)
    series = []
    for agent, curves in agents.items():
        have = [each for each in curves if metric in each]
        if have:
            steps, mean, low, high = mean_curve(
                [each["steps"] for each in have], [each[metric] * shown.factor for each in have]
            )
            seeds = "1 seed" if len(have) == 1 else f"{len(have)} seeds"
            series.append(Series(f"{agent} ({seeds})", steps, mean, low, high))
    return Figure(
        file_name("learning", metric, subject),
        f"Learning curves: {subject}",
        f"{capitalised(shown.heading)} of the training episodes that ended between two updates"
        + ("; higher is better." if metric == "mean_return" else "."),
        Axis("decisions"),
        Axis(shown.heading, shown.unit, log=metric != "mean_return"),
        series,
    )


def _subjects(runs: Sequence[Run]) -> list[str]:
    """What each was trained on, with what tells it from others of the name."""
    names = [str((run.config.get("scenario") or run.config["suite"])["name"]) for run in runs]
    about = [
        {key: value for key, value in run.settings().items() if key.startswith(("scenario", "suite"))}
        for run in runs
    ]
    return distinct_labels(names, about)


def _agents(runs: Sequence[Run]) -> list[str]:
    """Algorithm and network, with what tells them from others of the names."""
    names = [f"{run.config['agent']['algorithm']} {run.config['agent']['network']}" for run in runs]
    return distinct_labels(names, [run.settings("scenario", "suite", "seed") for run in runs])


def read_curve(run: Run) -> Curve:
    """The rows of training.csv that have a number in every column."""
    _ = run.config["agent"]["algorithm"], run.config["agent"]["network"], run.config["scenario"]
    rows = run.rows("training.csv")
    names = [name for name in (rows[0] if rows else {}) if name]
    columns = np.array([[_number(row[name]) for name in names] for row in rows]).reshape(
        len(rows), len(names)
    )
    columns = columns[np.isfinite(columns).all(axis=1)]
    return dict(zip(names, columns.T, strict=True))


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return float("nan")
