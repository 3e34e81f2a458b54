"""An evaluation of a suite as the card of one policy quotes it."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from servegym.costmodels.errors import InputError

ORIGIN, AGGREGATES, SCENARIOS, ABSENT = "provenance.json", "summary.csv", "scenarios.csv", "not_played.csv"
"""What is read of what `servegym evaluate suite=...` writes."""

Row = dict[str, str]


def quote(folder: Path, *names: str) -> dict[str, Any]:
    """What agents/serving/artifact/card.py shows of an evaluation: what, command, table and limits.

    folder: what `servegym evaluate suite=...` has written. names: what the policy may be called there; its
    card calls it by the first. InputError where the folder is no such evaluation, or not of this policy.
    """
    for part in (ORIGIN, AGGREGATES, SCENARIOS, ABSENT):
        if not (folder / part).is_file():
            raise InputError(f"evaluation = {folder}: has no {part}; must be of servegym evaluate suite=NAME")
    origin = json.loads((folder / ORIGIN).read_text())
    aggregates = {row["policy"]: row for row in _rows(folder / AGGREGATES)}
    name = next((each for each in names if each in aggregates), None)
    if name is None:
        raise InputError(f"evaluation = {folder}: must be of {' or '.join(names)}, not of {list(aggregates)}")
    rows = [row for row in _rows(folder / SCENARIOS) if row["policy"] == name]
    seeds = ",".join(map(str, origin["seeds"]))
    if origin["seeds"] == list(range(len(origin["seeds"]))):
        seeds = str(len(origin["seeds"]))
    return {
        "what": _what(origin, aggregates[name]),
        "command": f"servegym evaluate suite={origin['suite']} policy={names[0]} "
        f"seeds={seeds if seeds.isdigit() else f'[{seeds}]'}",
        "table": [
            ["scenario", "metric", "mean", "best heuristic", "change", "95 % interval", "gap closed"],
            *map(_figures, rows),
        ],
        "limits": [*_worse(rows), *_not_played(folder, name)],
    }


def _rows(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _what(origin: dict[str, Any], row: Row) -> str:
    score, low, high = (float(row[key]) for key in ("score", "low", "high"))
    return (
        f"On suite {origin['suite']}, version {origin['version']}, over {len(origin['seeds'])} test seeds: "
        f"score {score:.3f} ({low:.3f} to {high:.3f}), the interquartile mean of the metric over that of the "
        f"best heuristic of each scenario; better than it on {row['better']} scenarios, level on "
        f"{row['level']}, worse on {row['worse']}. Gap closed: of what lies between the best heuristic and a "
        "bound on all policies."
    )


def _figures(row: Row) -> list[str]:
    change, low, high = (float(row[key]) for key in ("change", "change_low", "change_high"))
    gap = f"{float(row['gap_closed']):.0%}" if row["gap_closed"] else ""
    mean, interval = f"{float(row['mean']):.4g}", f"{low:+.1%} to {high:+.1%}"
    return [row["scenario"], row["metric"], mean, row["best_heuristic"], f"{change:+.1%}", interval, gap]


def _worse(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        if row["verdict"] == "worse":
            change, interval = _figures(row)[4:6]
            yield f"On {row['scenario']} worse than {row['best_heuristic']}: {change} ({interval})."


def _not_played(folder: Path, name: str) -> Iterator[str]:
    for row in _rows(folder / ABSENT):
        if row["policy"] == name:
            yield f"Does not play {row['scenario']}: {row['why']}."
