"""Runs side by side: the keys in which they differ, and what came out; and runs that cannot be shown."""

from collections.abc import Sequence
from typing import Any

from servegym.experiments.reporting.quantities import quantity
from servegym.experiments.reporting.runs import FINISHED, Run, as_word, differing_keys
from servegym.experiments.reporting.section import Section
from servegym.experiments.reporting.table import DASH, Cell, Table, number_cell

HEADINGS = {
    "simulate": "Simulations",
    "train": "Training runs",
    "study": "Studies",
    "goodput": "Goodput searches",
}
SHOWN = (
    "mean_return",
    "mean_ttft_s",
    "p99_ttft_s",
    "mean_tpot_s",
    "mean_latency_s",
    "p99_latency_s",
    "slo_attainment",
    "goodput_rps",
    "bad_share",
    "good_rps",
    "score",
    "steps",
)
"""Columns, as far as any run has them."""

COMPARED = ("simulate", "train", "study", "goodput")
"""Kinds of runs that have a configuration to be compared by."""


def run_table_section(runs: Sequence[Run]) -> Section | None:
    """A table for each sweep and for the other runs of each kind; nothing without runs to compare."""
    tables = []
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.status == FINISHED and (run.kind in COMPARED or run.answer):
            groups.setdefault((run.sweep, run.kind), []).append(run)
    for (sweep, kind), group in groups.items():
        if len(group) > 1:
            title = HEADINGS.get(kind, kind)
            tables.append(_table(f"{title} of the sweep {sweep}" if sweep else title, group))
    if not tables:
        return None
    words = (
        "Every run by itself, with the keys of the configuration in which runs of its table differ. Click "
        "a heading to sort by it; type words to keep the rows that hold them all, or choose values. "
        "Training runs show the last row of their training curve."
    )
    return Section("Runs side by side", [words], tables)


def unreadable_section(runs: Sequence[Run]) -> Section | None:
    """What is left out of all else, and why; nothing where that is nothing."""
    left_out = [run for run in runs if run.status != FINISHED]
    if not left_out:
        return None
    rows = [[Cell(run.name), Cell(run.kind), Cell(run.status), Cell(run.problem)] for run in left_out]
    columns = [("run", ""), ("command", ""), ("status", ""), ("what is wrong", "")]
    caption = "The same command again goes on with a run that is unfinished, or makes it anew."
    return Section(
        "Runs left out",
        ["These runs were given, and are not in any table or figure of this report."],
        [Table("Unfinished, damaged and failed runs", caption, columns, rows, ("command", "status"))],
    )


def _table(title: str, group: Sequence[Run]) -> Table:
    configs = [run.flat_config or _of_words(run) for run in group]
    keys = differing_keys(configs)
    figures = [_figures(run) for run in group]
    names = [name for name in SHOWN if any(name in each for each in figures)]
    rows = []
    for run, config, metrics in zip(group, configs, figures, strict=True):
        row = [Cell(run.path.name, str(run.path.parent))]
        row += [_key_cell(config[key]) if key in config else Cell(DASH) for key in keys]
        for name in names:
            row.append(number_cell(metrics[name] * quantity(name).factor) if name in metrics else Cell(DASH))
        rows.append(row)
    columns = [("run", ""), *((key, "") for key in keys)]
    columns += [(quantity(name).heading, quantity(name).unit) for name in names]
    return Table(
        title, f"{len(group)} runs, which differ in {', '.join(keys) or 'nothing'}.", columns, rows, keys
    )


def _key_cell(value: Any) -> Cell:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(as_word(value), number=float(value) if is_number else None)


def _figures(run: Run) -> dict[str, float]:
    """What came out, by name: from its files, or from what a sweep or a goodput search has answered."""
    if run.record.metrics:
        return run.record.metrics
    answer = run.answer or run.json("goodput.json")
    metrics = answer.get("metrics") or answer.get("training") or answer
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _of_words(run: Run) -> dict[str, Any]:
    """Keys and values as typed, of a run in a sweep that has kept no configuration."""
    pairs = (word.lstrip("+").partition("=") for word in run.words)
    return {key: value for key, _, value in pairs}
