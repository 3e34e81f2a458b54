"""The tables of an evaluation, once as words, then on a terminal and as HTML."""

import math
from dataclasses import dataclass
from html import escape
from typing import Any

from rich import box
from rich import table as rich_table
from rich.text import Text

from servegym.experiments.evaluation.comparison import TIMES
from servegym.experiments.evaluation.statistics import ENOUGH_SEEDS

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
SIGNS = {"better": "+", "worse": MINUS, "undecided": "="}
STYLES = {"best": "bold", "better": "green", "worse": "red", "undecided": "dim", "": ""}
WINS = ("mean_ttft_s", "p99_ttft_s")
"""The metrics of the table of wins."""

Comparisons = dict[tuple[str, str, str], dict[str, Any]]
"""The comparisons of an answer, by policy, against and metric."""


@dataclass(frozen=True)
class Unit:
    """How a metric is shown: its heading, the name of its unit, units per SI unit, decimals."""

    heading: str
    unit: str
    factor: float
    decimals: int
    more_is_better: bool = False

    def show(self, value: float) -> str:
        """A value in this unit, without its name."""
        return f"{value * self.factor:,.{self.decimals}f}" if math.isfinite(value) else DASH


UNITS = {
    "mean_ttft_s": Unit("mean TTFT", "ms", 1e3, 1),
    "p99_ttft_s": Unit("P99 TTFT", "ms", 1e3, 1),
    "mean_tpot_s": Unit("mean TPOT", "ms", 1e3, 2),
    "mean_latency_s": Unit("mean latency", "s", 1.0, 3),
    "p99_latency_s": Unit("P99 latency", "s", 1.0, 3),
    "slo_attainment": Unit("within SLO", "%", 1e2, 1, more_is_better=True),
    "preemptions_per_request": Unit("preemptions", "per 1,000 requests", 1e3, 1),
}


@dataclass(frozen=True)
class Cell:
    """Two lines, and how they look: a key of STYLES."""

    text: str
    detail: str = ""
    style: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells under (heading, unit) columns; the first column names the policy."""

    title: str
    caption: str
    columns: list[tuple[str, str]]
    rows: list[tuple[str, list[Cell]]]

    def as_rich(self) -> rich_table.Table:
        """For a terminal."""
        table = rich_table.Table(
            title=self.title,
            caption=self.caption,
            box=box.SIMPLE,
            title_justify="left",
            caption_justify="left",
        )
        table.add_column("policy", no_wrap=True)
        for heading, unit in self.columns:
            table.add_column(Text.assemble(heading, ("\n" + unit if unit else "", "dim")), justify="right")
        for name, cells in self.rows:
            table.add_row(Text(name), *(_rich_cell(cell) for cell in cells))
        return table

    def as_html(self) -> str:
        """For a page; cells carry their style as class."""
        head = "".join(
            f"<th>{escape(heading)}<small>{escape(unit)}</small></th>" for heading, unit in self.columns
        )
        body = ""
        for name, cells in self.rows:
            row = "".join(
                f'<td class="{cell.style}">{escape(cell.text)}<small>{escape(cell.detail)}</small></td>'
                for cell in cells
            )
            body += f"<tr><th>{escape(name)}</th>{row}</tr>\n"
        return (
            f"<h3>{escape(self.title)}</h3>\n<p>{escape(self.caption)}</p>\n"
            f"<table>\n<thead><tr><th>policy</th>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>\n"
        )


def _rich_cell(cell: Cell) -> Text:
    star = "* " if cell.style == "best" else ""  # bold is lost where the output goes to a file
    return Text.assemble(
        (star + cell.text, STYLES[cell.style]), ("\n" + cell.detail if cell.detail else "", "dim")
    )


def tables(findings: dict[str, Any]) -> list[Table]:
    """Estimates, changes against the baseline, and who beats whom; from what the command answers."""
    comparisons = {(one["policy"], one["against"], one["metric"]): one for one in findings["comparisons"]}
    if not comparisons:
        return [_estimates(findings)]
    return [
        _estimates(findings),
        _changes(findings, comparisons),
        _wins(list(findings["policies"]), comparisons),
    ]


def _estimates(findings: dict[str, Any]) -> Table:
    policies = findings["policies"]
    rows = []
    for policy, estimates in policies.items():
        cells = []
        for metric, unit in UNITS.items():
            found = estimates[metric]
            sign = -1.0 if unit.more_is_better else 1.0
            others = [sign * policies[other][metric]["iqm"] for other in policies if other != policy]
            best = "best" if others and sign * found["iqm"] < min(others) else ""
            cells.append(
                Cell(
                    unit.show(found["iqm"]),
                    f"{unit.show(found['low'])}{DASH}{unit.show(found['high'])}",
                    best,
                )
            )
        rows.append((policy, cells))
    num_seeds = len(findings["seeds"])
    few = (
        f" {num_seeds} seeds are few: intervals and verdicts claim too much."
        if num_seeds < ENOUGH_SEEDS
        else ""
    )
    return Table(
        "Results",
        f"Interquartile mean over {num_seeds} seeds, below it its 95 % interval; best in bold.{few}",
        [(unit.heading, unit.unit) for unit in UNITS.values()],
        rows,
    )


def _changes(findings: dict[str, Any], comparisons: Comparisons) -> Table:
    baseline = findings["baseline"]
    rows = []
    for policy in findings["policies"]:
        if policy == baseline:
            continue
        found = [comparisons[policy, baseline, metric] for metric in TIMES]
        rows.append((policy, [Cell(percent(one["change"]), interval(one), one["verdict"]) for one in found]))
    return Table(
        f"Change against {baseline}",
        "On the same requests, seed by seed; less is better. Green is better and red is worse where the 95 % "
        "interval excludes 0.",
        [(UNITS[metric].heading, "") for metric in TIMES],
        rows,
    )


def _wins(policies: list[str], comparisons: Comparisons) -> Table:
    rows = []
    for number, policy in enumerate(policies, 1):
        cells = []
        for against in policies:
            if against == policy:
                cells.append(Cell("\N{MIDDLE DOT}", style="undecided"))
                continue
            verdicts = [comparisons[policy, against, metric]["verdict"] for metric in WINS]
            style = verdicts[0] if len(set(verdicts)) == 1 else ""
            cells.append(Cell(" ".join(SIGNS[verdict] for verdict in verdicts), style=style))
        rows.append((f"{number} {policy}", cells))
    first, second = (UNITS[metric].heading for metric in WINS)
    return Table(
        "Wins",
        f"Row against column, first in {first}, then in {second}: + better, {MINUS} worse, = undecided.",
        [(str(number), "") for number in range(1, len(policies) + 1)],
        rows,
    )


def percent(change: float) -> str:
    """A relative change in percent, with its sign."""
    return f"{change:+.1%}".replace("-", MINUS).replace("%", " %") if math.isfinite(change) else DASH


def interval(comparison: dict[str, Any]) -> str:
    """The interval of a comparison in percent; empty where there is none."""
    low, high = comparison["low"], comparison["high"]
    return f"{percent(low)[:-2]} to {percent(high)[:-2]}" if math.isfinite(low) else ""
