"""`python -m servegym.experiments.results_table README.md`: its table of results, from experiments/results.

Between the markers BEGIN and END of a Markdown file everything is written anew, nothing is typed by hand.
"""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from servegym.costmodels.errors import InputError
from servegym.costmodels.output_file import output_file
from servegym.experiments.evaluation.suite_report import markdown_table, with_interval

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
RESULTS = Path("experiments/results")
"""Folders of results, one a suite, relative to the file."""

HEURISTICS = 3
"""Shown of each suite, the best ones that played every scenario."""

HEADING = ("suite", "policy", "score", "scenarios better, level, worse", "worst scenario")


def with_results(text: str, results: Path) -> str:
    """The text with its table rewritten from the folders in `results`. InputError without the markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(
            f"no {BEGIN} and {END}: must be there, on lines of their own, for the table to go between"
        )
    return f"{before}{BEGIN}\n{results_table(results)}{END}{after}"


def results_table(results: Path) -> str:
    """A row for each learned policy and the best heuristics of each suite; the commands that made them."""
    rows, commands = [], []
    for folder in sorted(path.parent for path in results.glob("*/summary.csv")):
        origin = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        with (folder / "summary.csv").open(newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file))
        heuristics = [row for row in found if row["kind"] == "heuristic" and row["scenarios"] == row["of"]]
        learned = [row for row in found if row["kind"] == "learned"]
        name = f"[{origin['suite']} {origin['version']}]({RESULTS}/{folder.name}/summary.md)"
        rows += [_row(name, row) for row in [*learned, *heuristics[:HEURISTICS]]]
        commands.append(f"- {origin['suite']}: {len(origin['seeds'])} test seeds, `{origin['command']}`\n")
    if not rows:
        return "No results yet.\n"
    return markdown_table(HEADING, rows) + "\n" + "".join(commands)


def _row(suite: str, found: dict[str, str]) -> Sequence[str]:
    runs = int(found["training_runs"])
    name = f"**{found['policy']}**" if found["kind"] == "learned" else found["policy"]
    partly = "" if found["scenarios"] == found["of"] else f", {found['scenarios']} of {found['of']} scenarios"
    return (
        suite,
        name + (f", {runs} training seeds" if runs > 1 else "") + partly,
        with_interval((float(found["score"]), float(found["low"]), float(found["high"]))),
        f"{found['better']}, {found['level']}, {found['worse']}",
        f"{found['worst_scenario']}, {100 * float(found['worst_change']):+.1f} %",
    )


def main(arguments: Sequence[str]) -> int:
    """Rewrites the table of one file; returns the exit code."""
    if len(arguments) != 1:
        print("usage: python -m servegym.experiments.results_table README.md", file=sys.stderr)
        return 2
    path = Path(arguments[0])
    try:
        text = with_results(path.read_text(encoding="utf-8"), path.parent / RESULTS)
        with output_file(path) as file:
            file.write(text.encode())
    except (InputError, OSError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
