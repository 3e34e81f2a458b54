"""How the runs of a report are made again: commands, code, packages, machine and seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from servegym.experiments.reporting.runs import FINISHED, Run, as_word
from servegym.experiments.reporting.section import Commands, Part, Section
from servegym.experiments.reporting.table import DASH, Cell, Table
from servegym.experiments.studies.record import read_record

ANSWERS = ("metrics.json", "goodput.json", "validation.json", "evaluation.json")
"""Files that may say which versions a run was made by, where it has no provenance of its own."""


def reproduction_section(runs: Sequence[Run]) -> Section:
    """Commands as typed, each once, and where runs come from, those of one origin in one row."""
    made = [run for run in runs if run.status == FINISHED]
    commands = list(dict.fromkeys(command for run in made for command in _commands(run)))
    silent = [run for run in made if not _commands(run)]
    parts: list[Part] = []
    if commands:
        parts.append(Commands("Commands as they were typed", commands))
    if silent:
        lines = [
            f"servegym replay {run.name}"
            for run in silent
            if run.kind == "simulate" and "router" in run.config
        ]
        if lines:
            parts.append(
                Commands("Simulations that keep no command are repeated from their configuration", lines)
            )
    parts.append(_origins(made))
    return Section(
        "Reproduction",
        [
            "The same command, code and packages give the same numbers: the same bits on the same kind of "
            "machine. Folders of training runs also hold what of the code was not committed (code.diff) "
            "and every installed package (packages.txt).",
        ],
        parts,
    )


def _commands(run: Run) -> list[str]:
    """As typed; of a run in a sweep those of the sweep."""
    if run.sweep:
        return list(read_record(Path(run.sweep)).commands)
    return list(run.record.commands)


def _command(run: Run) -> str:
    return run.kind.partition(" ")[0].partition("_")[0]


def _origins(runs: Sequence[Run]) -> Table:
    groups: dict[tuple[str, str, str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault(_origin(run), []).append(run)
    rows = []
    for (commit, hardware, platform, packages), group in groups.items():
        count = f"{len(group)} run{'s' * (len(group) > 1)}"
        commands = ", ".join(dict.fromkeys(_command(run) for run in group))
        rows.append(
            [
                Cell(count, commands, float(len(group))),
                Cell(_seeds(group)),
                Cell(commit),
                Cell(hardware),
                Cell(platform),
                Cell(packages),
            ]
        )
    columns = [
        ("runs", ""),
        ("seeds", ""),
        ("git commit", ""),
        ("hardware", ""),
        ("platform", ""),
        ("versions", ""),
    ]
    caption = "Runs of one origin in one row; a dash where runs do not say."
    return Table("Code, machine and versions", caption, columns, rows)


def _origin(run: Run) -> tuple[str, str, str, str]:
    known: dict[str, Any] = dict(run.answer)
    for name in ANSWERS:
        known |= run.json(name)
    known |= run.record.provenance
    commit = known.get("git_commit")
    changed = " with changes" if known.get("git_dirty") else ""
    machine = [known.get("cpu")]
    if known.get("cpu_cores"):
        machine.append(f"{known['cpu_cores']} cores")
    if known.get("memory_gib"):
        machine.append(f"{known['memory_gib']} GiB")
    machine += known.get("gpus") or []
    versions = ", ".join(f"{name} {version}" for name, version in known.get("versions", {}).items())
    return (
        f"{str(commit)[:12]}{changed}" if commit else DASH,
        ", ".join(filter(None, machine)) or DASH,
        str(known.get("platform", DASH)),
        versions or DASH,
    )


def _seeds(runs: Sequence[Run]) -> str:
    """All seeds of the runs, each once."""
    seeds: dict[str, None] = {}
    for run in runs:
        config = run.config or run.json("evaluation.json") or run.record.provenance or run.answer
        for value in (config.get("seed"), config.get("seeds")):
            if value is not None:
                seeds |= dict.fromkeys(map(as_word, value) if isinstance(value, list) else [as_word(value)])
    return ", ".join(seeds) or DASH
