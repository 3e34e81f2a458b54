"""Latency against load: simulations that differ in their rate, and where each curve has its knee.

The knee is Kneedle's (Satopaa et al., "Finding a kneedle in a haystack", ICDCSW 2011) of the measured points,
unsmoothed: both axes are scaled to [0, 1], and the knee of a curve that rises ever faster is the point that
lies furthest below the straight line from the first to the last.
"""

from collections.abc import Sequence

import numpy as np

from servegym.experiments.reporting.figure import Axis, Figure, Series, Values, file_name
from servegym.experiments.reporting.quantities import capitalised, quantity
from servegym.experiments.reporting.runs import distinct_labels, grouped
from servegym.experiments.reporting.section import Choice, Section
from servegym.experiments.reporting.simulations import POLICY_KEYS, Simulated
from servegym.experiments.reporting.table import DASH, Cell, Table, number_cell

RATE = "scenario.workload.rate_rps"
METRICS = ("mean_ttft_s", "p99_ttft_s", "mean_latency_s", "p99_latency_s")
FEWEST_FOR_A_KNEE = 4
LEAST_DEPTH = 0.1
"""Of a knee below the straight line, in the scaled square: with less a curve is as good as straight."""


def knee(rates: Values, values: Values) -> int | None:
    """Which point of a rising curve is its knee; None of too few points, or of a curve without one.

    rates: (n,) ascending. The curve is the largest value up to each rate, so that chance dips do not count.

    >>> knee(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 1.1, 1.2, 9.0]))
    2
    """
    if len(rates) < FEWEST_FOR_A_KNEE or not np.isfinite(values).all():
        return None
    rising = np.maximum.accumulate(values)
    if rising[-1] <= rising[0] or rates[-1] <= rates[0]:
        return None
    depth = (rates - rates[0]) / (rates[-1] - rates[0]) - (rising - rising[0]) / (rising[-1] - rising[0])
    deepest = int(np.argmax(depth))
    return deepest if depth[deepest] >= LEAST_DEPTH else None


def load_section(groups: Sequence[Simulated]) -> Section | None:
    """A figure for each setting and metric; nothing where no policy was simulated at several rates."""
    by_setting = _settings(groups)
    choices, rows = [], []
    for setting, of_policy in by_setting.items():
        figures = {}
        for metric in METRICS:
            found = _figure(setting, of_policy, metric)
            if found is not None:
                figures[found.y.title] = found
                rows += _knees(setting, found)
        if figures:
            choices.append(Choice("Metric", figures))
    if not choices:
        return None
    columns = [("setting", ""), ("metric", ""), ("policy", ""), ("knee", "requests/s"), ("value there", "")]
    caption = "By curve: the rate at its knee, and the metric there. A dash: the curve has none."
    return Section(
        "Latency against load",
        [
            "The same setting at several arrival rates. Lines join interquartile means over seeds; bands "
            "are their 95 % bootstrap intervals (none with one seed). The rate is the mean rate of the "
            "requests that were simulated.",
            "Diamonds mark knees: with both axes scaled to [0, 1], the measured point furthest below the "
            "straight line from the first point to the last (Kneedle, Satopaa et al., ICDCSW 2011, "
            "without smoothing). It depends on the range of rates: a knee says where this curve turns, "
            f"not what a fleet can carry. Curves of fewer than {FEWEST_FOR_A_KNEE} rates, or as good as "
            "straight, have none.",
        ],
        [*choices, Table("Knees", caption, columns, rows, ("setting", "metric", "policy"))],
    )


def _settings(groups: Sequence[Simulated]) -> dict[str, dict[str, list[Simulated]]]:
    """By what is the same at all rates, then by policy: several rates in ascending order."""
    first = {id(each.runs[0]): each for each in groups}
    alike = grouped([each.runs[0] for each in groups], "seed", RATE, *POLICY_KEYS)
    names = [str(runs[0].config["scenario"]["name"]) for runs in alike]
    found: dict[str, dict[str, list[Simulated]]] = {}
    settings = [runs[0].settings("seed", RATE, *POLICY_KEYS) for runs in alike]
    for setting, runs in zip(distinct_labels(names, settings), alike, strict=True):
        by_policy: dict[str, list[Simulated]] = {}
        for run in runs:
            by_policy.setdefault(first[id(run)].policy, []).append(first[id(run)])
        several = {
            policy: sorted(each, key=lambda one: one.rate_rps)
            for policy, each in by_policy.items()
            if len(each) > 1
        }
        if several:
            found[setting] = several
    return found


def _figure(setting: str, of_policy: dict[str, list[Simulated]], metric: str) -> Figure | None:
    shown = quantity(metric)
    series: list[Series] = []
    marks: list[Series] = []
    for policy, curve in of_policy.items():
        estimates = np.array([each.estimate(metric) for each in curve]) * shown.factor
        if not np.isfinite(estimates[:, 0]).any():
            continue
        rates = np.array([each.rate_rps for each in curve])
        banded = any(len(each.runs) > 1 for each in curve)
        low, high = (estimates[:, 1], estimates[:, 2]) if banded else (None, None)
        words = [f"configured rate {each.runs[0].flat_config.get(RATE):g} requests/s" for each in curve]
        series.append(Series(policy, rates, estimates[:, 0], low, high, words=words))
        at = knee(rates, estimates[:, 0])
        if at is not None:
            place, value = rates[at : at + 1], estimates[at : at + 1, 0]
            name = f"knee of {policy}: {place[0]:.3g}"
            marks.append(Series(name, place, value, drawn="marks", like=policy))
    if not series:
        return None
    return Figure(
        file_name("load", metric.removesuffix("_s"), setting),
        f"Latency against load: {setting}",
        f"{capitalised(shown.heading)} by arrival rate; lower is better."
        + (" Diamonds mark knees." if marks else ""),
        Axis("arrival rate", "requests/s"),
        Axis(shown.heading, shown.unit, log=True),
        [*series, *marks],
    )


def _knees(setting: str, figure: Figure) -> list[list[Cell]]:
    at = {each.like: each for each in figure.series if each.drawn == "marks"}
    rows = []
    for each in figure.series:
        if each.drawn != "marks":
            mark = at.get(each.name)
            place = number_cell(float(mark.places[0])) if mark else Cell(DASH)
            value = Cell(f"{mark.y[0]:,.4g} {figure.y.unit}", number=float(mark.y[0])) if mark else Cell(DASH)
            rows.append([Cell(setting), Cell(figure.y.title), Cell(each.name), place, value])
    return rows
