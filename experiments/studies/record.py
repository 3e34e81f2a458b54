"""What a folder of results says of itself, whichever command has written it."""

import csv
import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from servegym.costmodels.errors import InputError

KINDS = {
    "sweep": ("sweep.json",),
    "study": ("config.yaml", "study.lock"),
    "train": ("config.yaml", "training.csv|checkpoints|policy.pt|finished.json|run.lock"),
    "simulate": ("config.yaml", "metrics.json", "requests.parquet|batches.parquet"),
    "evaluate": ("results.csv", "summary.csv"),
}
"""Kinds of folders, by the command that writes them, and the files that tell them; `|`: one of these."""

SUBJECT_KEYS = ("scenario", "suite", "router", "scheduler", "policy")

FINISHED = {
    "train": ("policy.pt", "finished.json", "provenance.json"),
    "study": ("metrics.json",),
}
"""What a folder holds once its command has come to its end; others appear whole or not at all."""


@dataclass(frozen=True)
class RunRecord:
    """A folder of results.

    missing: files that it lacks to be finished. commands: as typed, first the one that began it. config: as
    nested JSON values. metrics: the last figures, by name. seconds: that its last command took, if known.
    """

    path: Path
    kind: str
    missing: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float | None = None

    @property
    def is_finished(self) -> bool:
        """Whether nothing is missing."""
        return not self.missing

    @property
    def written(self) -> datetime:
        """When the newest of its own files was written."""
        newest = max((path.stat().st_mtime for path in self.path.iterdir()), default=0.0)
        return datetime.fromtimestamp(newest, UTC)

    @property
    def size_bytes(self) -> int:
        """Of all files in it."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    @property
    def subject(self) -> str:
        """What it is about: the scenario or suite, and who serves or learns; of a sweep its words."""
        if self.kind == "sweep":
            return self.commands[0].removeprefix("servegym ")
        parts = [
            _name(self.config.get(key)) for key in ("scenario", "suite", "router", "scheduler", "policy")
        ]
        agent = self.config.get("agent")
        learner = f"{agent.get('algorithm')} {agent.get('network')}" if isinstance(agent, dict) else None
        return ", ".join(part for part in (*parts, learner) if part)


def kind_of(path: Path) -> str | None:
    """Which command has written a folder; None for any other folder."""
    for kind, tells in KINDS.items():
        if all(any((path / name).exists() for name in tell.split("|")) for tell in tells):
            return kind
    return None


def read_record(path: Path) -> RunRecord:
    """The record of a folder. InputError where it is no folder of results, or a file in it is damaged."""
    kind = kind_of(path)
    if kind is None:
        raise InputError(f"{path}: must be a folder that servegym {', '.join(KINDS)} has written")
    finished = _json(path / "finished.json")
    return RunRecord(
        path,
        kind,
        tuple(name for name in FINISHED.get(kind, ()) if not (path / name).is_file()),
        _commands(path),
        _yaml(path / "config.yaml"),
        _json(path / "provenance.json"),
        _metrics(path),
        finished.get("elapsed_s"),
    )


def find_records(root: Path) -> list[RunRecord]:
    """The records of all folders of results at or below `root`, by path; none is looked for inside another.

    Damaged ones are left out. InputError where `root` is no folder.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such folder")
    return [record for path in find_runs(root) if (record := _readable(path)) is not None]


def find_runs(root: Path) -> list[Path]:
    """The folders of results at or below `root`, by path."""
    if kind_of(root) is not None:
        return [root]
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [run for folder in folders for run in find_runs(folder)]


def _readable(path: Path) -> RunRecord | None:
    try:
        return read_record(path)
    except InputError:
        return None


def _commands(path: Path) -> tuple[str, ...]:
    if (path / "command.txt").is_file():
        return tuple((path / "command.txt").read_text().splitlines())
    sweep = _json(path / "sweep.json")
    return (f"servegym {sweep['command']} -m {' '.join(sweep['words'])}",) if sweep else ()


def _metrics(path: Path) -> dict[str, float]:
    """Of a simulation or study its metrics, of a training run the last row of its curve."""
    found = _json(path / "metrics.json")
    if found:
        metrics = found.get("metrics", found)
        return {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    if (path / "training.csv").is_file():
        with (path / "training.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        return {name: _number(value) for name, value in rows[-1].items()} if rows else {}
    return {}


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    return content if isinstance(content, dict) else {}


def _name(part: Any) -> str | None:
    return str(part["name"]) if isinstance(part, dict) and "name" in part else None
