"""Simulations in a report: a table over seeds, and how long requests took."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from servegym.experiments.evaluation.statistics import ENOUGH_SEEDS, Estimate, estimate
from servegym.experiments.reporting.figure import Axis, Figure, Series, Values, file_name
from servegym.experiments.reporting.quantities import quantity
from servegym.experiments.reporting.runs import Run, distinct_labels, grouped
from servegym.experiments.reporting.section import Choice, Section
from servegym.experiments.reporting.table import Cell, Table, interval_text, number_cell
from servegym.experiments.tracking.tracker import flat

POLICY_KEYS = ("router", "scheduler", "rebalancer", "policy", "autoscaler")
"""Of a configuration: who serves, whatever the scenario is."""

SHOWN = (
    "mean_ttft_s",
    "p99_ttft_s",
    "mean_tpot_s",
    "mean_latency_s",
    "p99_latency_s",
    "slo_attainment",
    "attainment",
    "bad_share",
    "goodput_rps",
    "good_rps",
    "utilisation",
)
"""Columns of the table, as far as any simulation has them."""

MEASURES = {
    "ttft_s": ("TTFT", "time to first token", "ms", 1e3),
    "tpot_s": ("TPOT", "time per output token after the first", "ms", 1e3),
    "latency_s": ("End-to-end latency", "end-to-end latency", "s", 1.0),
}
"""What is measured of each request: title, axis, unit and units per second."""

SHARES = np.concatenate([np.linspace(0, 0.99, 200), 1 - np.geomspace(0.0095, 0.0001, 40)])
"""At which distributions are drawn: more of them at the slow end."""


Times = dict[str, Values]
"""Of each of MEASURES, as far as there are any, seconds of each request; `rate_rps`, one number."""


@dataclass(frozen=True, eq=False)
class Simulated:
    """Simulations that differ in their seeds alone: who served what, at which rate on average.

    setting: the scenario, with what tells it from others of the same name. quantiles: of each of MEASURES at
    SHARES, over the requests of all seeds that finished, seconds. figures: of each metric one value a seed.
    """

    setting: str
    policy: str
    runs: list[Run]
    rate_rps: float
    quantiles: dict[str, Values]
    figures: dict[str, Values]

    def estimate(self, name: str) -> Estimate:
        """The interquartile mean of a metric over seeds, with its interval; NaN where it has none."""
        values = self.figures.get(name, np.array([np.nan]))
        return estimate(values) if np.isfinite(values).all() else Estimate(np.nan, np.nan, np.nan)


def simulated(read: Sequence[tuple[Run, Times]]) -> list[Simulated]:
    """Simulations by setting and policy, of each setting by rate; from the times of their requests."""
    times = {run.path: each for run, each in read}
    groups = grouped([run for run, _ in read], "seed")
    first = [each[0] for each in groups]
    names = zip(groups, _setting_labels(first), _policy_labels(first), strict=True)
    found = [
        _summed_up(setting, policy, group, [times[run.path] for run in group])
        for group, setting, policy in names
    ]
    return sorted(found, key=lambda each: (each.setting.partition(",")[0], each.rate_rps, each.setting))


def simulation_section(groups: Sequence[Simulated]) -> Section | None:
    """The table and the distributions; nothing without simulations."""
    if not groups:
        return None
    return Section(
        "Simulations",
        [
            "Each simulation serves one workload by one policy. Simulations that differ in their seeds "
            "alone share a row: the interquartile mean over seeds, below it its 95 % bootstrap interval. "
            "Policies are given the very same requests where setting and seed are the same.",
            *_few_seeds(min(len(each.runs) for each in groups)),
        ],
        [_table(groups), *_distributions(groups)],
    )


def _few_seeds(fewest: int) -> list[str]:
    if fewest >= ENOUGH_SEEDS:
        return []
    seeds = "1 seed is" if fewest == 1 else f"{fewest} seeds are"
    return [f"Some rows have few seeds; {seeds} too few for an interval to say how sure a mean is."]


def _table(groups: Sequence[Simulated]) -> Table:
    names = [name for name in SHOWN if any(name in each.figures for each in groups)]
    rows = []
    for each in groups:
        row = [Cell(each.setting), Cell(each.policy), number_cell(each.rate_rps), _seeds(each.runs)]
        for name in names:
            found, factor = each.estimate(name), quantity(name).factor
            detail = interval_text(found.low * factor, found.high * factor) if len(each.runs) > 1 else ""
            row.append(number_cell(found.iqm * factor, detail=detail))
        rows.append(row)
    columns = [("setting", ""), ("policy", ""), ("arrivals", "requests/s"), ("seeds", "")]
    columns += [(quantity(name).heading, quantity(name).unit) for name in names]
    caption = "Interquartile mean over seeds and its 95 % interval. Arrivals: the mean rate of the requests."
    return Table("Results of simulations", caption, columns, rows, ("setting", "policy"))


def _seeds(runs: Sequence[Run]) -> Cell:
    seeds = sorted(run.config.get("seed", 0) for run in runs)
    return Cell(str(len(seeds)), ", ".join(map(str, seeds)), len(seeds))


def _distributions(groups: Sequence[Simulated]) -> list[Choice]:
    found = []
    for measure, (title, axis, unit, factor) in MEASURES.items():
        figures = {}
        for setting in dict.fromkeys(each.setting for each in groups):
            here = [each for each in groups if each.setting == setting and measure in each.quantiles]
            if not here:
                continue
            series = [Series(each.policy, each.quantiles[measure] * factor, SHARES) for each in here]
            figures[setting] = Figure(
                file_name("cdf", measure.removesuffix("_s"), setting),
                f"{title}: {setting}",
                f"Share of requests whose {axis} was at most this, all requests that finished, of all "
                "seeds. A curve further left is better; where curves cross, one policy is better for most "
                "and worse for some.",
                Axis(axis, unit, log=True),
                Axis("share of requests", share=True, span=(0, 1)),
                series,
            )
        if figures:
            found.append(Choice("Setting", figures))
    return found


def _summed_up(setting: str, policy: str, runs: list[Run], tables: list[Times]) -> Simulated:
    quantiles = {}
    for name in MEASURES:
        values = np.concatenate([table[name] for table in tables if name in table] or [np.empty(0)])
        if len(values):
            quantiles[name] = np.quantile(values, SHARES)
    metrics = [run.record.metrics for run in runs]
    figures = {
        name: np.array([each.get(name, np.nan) for each in metrics], np.float64)
        for name in dict.fromkeys(name for each in metrics for name in each)
    }
    rate_rps = float(np.mean([table["rate_rps"][0] for table in tables]))
    return Simulated(setting, policy, runs, rate_rps, quantiles, figures)


def read_times(run: Run) -> Times:
    """Times of the requests that finished, and the mean rate at which requests came, of a simulation."""
    _ = scenario_name(run), policy_name(run)  # without names it is damaged
    path = run.path / "requests.parquet"
    wanted = ("arrival_s", "ttft_s", "tpot_s", "latency_s", "first_token_s", "finish_s", "output_tokens")
    there = pq.read_schema(path).names
    table = pq.read_table(path, columns=[name for name in wanted if name in there])
    columns = {name: table[name].to_numpy().astype(np.float64) for name in table.column_names}
    arrival_s = columns["arrival_s"][np.isfinite(columns["arrival_s"])]
    if "latency_s" not in columns:  # elastic fleets write instants
        columns["latency_s"] = columns["finish_s"] - columns["arrival_s"]
        columns["ttft_s"] = columns["first_token_s"] - columns["arrival_s"]
        with np.errstate(divide="ignore", invalid="ignore"):
            gaps = columns["output_tokens"] - 1
            columns["tpot_s"] = (columns["finish_s"] - columns["first_token_s"]) / np.where(
                gaps > 0, gaps, np.nan
            )
    ended = np.isfinite(columns["latency_s"])
    times = {name: columns[name][ended] for name in MEASURES if name in columns}
    span_s = np.ptp(arrival_s) if len(arrival_s) > 1 else 0.0
    rate_rps = (len(arrival_s) - 1) / span_s if span_s > 0 else np.nan
    return {name: each[np.isfinite(each)] for name, each in times.items()} | {
        "rate_rps": np.array([rate_rps])
    }


def _setting_labels(runs: Sequence[Run]) -> list[str]:
    return distinct_labels(
        list(map(scenario_name, runs)), [run.settings("seed", *POLICY_KEYS) for run in runs]
    )


def _policy_labels(runs: Sequence[Run]) -> list[str]:
    return distinct_labels(list(map(policy_name, runs)), [flat(_policies(run)) for run in runs])


def scenario_name(run: Run) -> str:
    """Of a simulation or a study. KeyError or TypeError where its configuration does not say."""
    return str(run.config["scenario"]["name"])


def policy_name(run: Run) -> str:
    """Router and scheduler, or whichever policies the command has; errors as `scenario_name`."""
    return "+".join(str(policy["name"]) for policy in _policies(run).values())


def _policies(run: Run) -> dict[str, Any]:
    return {key: run.config[key] for key in POLICY_KEYS if run.config.get(key)}
