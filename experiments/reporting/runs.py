"""The runs that a report is about: what kind each is, what it says of itself, and what it lacks."""

import csv
import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from servegym.costmodels.errors import InputError
from servegym.experiments.studies import record as records
from servegym.experiments.studies.digest import APART_FROM
from servegym.experiments.studies.record import RunRecord
from servegym.experiments.tracking.tracker import flat

FINISHED, UNFINISHED, DAMAGED, FAILED = "finished", "unfinished", "damaged", "failed"

NEEDED: dict[str, tuple[str, ...]] = {
    "train": ("config.yaml", "provenance.json", "training.csv", "finished.json"),
    "simulate": ("config.yaml", "metrics.json", "requests.parquet"),
    "study": ("config.yaml", "metrics.json"),
    "evaluate": ("results.csv", "summary.csv", "comparisons.csv"),
    "evaluate suite": ("scores.csv", "summary.csv", "scenarios.csv", "provenance.json"),
    "evaluate batching": ("evaluation.json", "results.csv"),
    "goodput": ("goodput.json",),
    "validate": ("validation.json",),
}
"""What a finished run of a kind holds, as far as reports read it."""

WRITTEN_LAST = {"train": "finished.json", "study": "metrics.json"}
"""Files whose absence means that a run has not ended. Other kinds appear whole: what lacks was lost."""


@dataclass(frozen=True)
class Run:
    """A run: its record, or what a sweep has kept of one that wrote no folder.

    status: FINISHED, or why it is not shown with the others; problem: in words. sweep: the folder of the
    sweep that it is part of. words: those of its command in a sweep. answer: what that command answered.
    """

    record: RunRecord
    status: str = FINISHED
    problem: str = ""
    sweep: str = ""
    words: tuple[str, ...] = ()
    answer: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.record.path

    @property
    def name(self) -> str:
        """Its folder, as given."""
        return str(self.path)

    @property
    def kind(self) -> str:
        """A key of NEEDED, or a command whose runs write no folder."""
        return self.record.kind

    @property
    def config(self) -> dict[str, Any]:
        """The configuration; empty where the kind keeps none."""
        return self.record.config

    @cached_property
    def flat_config(self) -> dict[str, Any]:
        """The same by dotted names."""
        return flat(self.config)

    def json(self, name: str) -> dict[str, Any]:
        """One of its files; empty where it is not there."""
        path = self.path / name
        found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return found

    def rows(self, name: str) -> list[dict[str, str]]:
        """One of its tables."""
        with (self.path / name).open(newline="") as file:
            return list(csv.DictReader(file))

    def settings(self, *apart_from: str) -> dict[str, Any]:
        """The flat configuration but for where it writes, some keys, and all below them."""
        left = (*APART_FROM, *apart_from)
        return {key: value for key, value in self.flat_config.items() if not _is_of(key, left)}


def find_runs(words: Sequence[str]) -> list[Run]:
    """The runs in folders, under them, or in those that patterns fit, each once, in the order of their paths.

    InputError for a word that leads to none.
    """
    found: dict[Path, Run] = {}
    for word in words:
        paths = [Path(word)] if Path(word).exists() else [Path(each) for each in sorted(glob.glob(word))]
        runs = [run for path in paths for run in _runs_under(path)]
        if not runs:
            what = "holds no run of servegym" if paths else "does not exist"
            raise InputError(f"runs: {word} {what}; must be folders that servegym commands have written")
        for run in runs:
            key = run.path.resolve()
            if key not in found or run.sweep:
                found[key] = run
    return sorted(found.values(), key=lambda run: run.name)


def kind_of(folder: Path) -> str | None:
    """What command has written a folder, by the files in it; None where none has."""

    def has(*names: str) -> bool:
        return any((folder / name).is_file() for name in names)

    if has("sweep.json"):
        return "sweep"
    for name, kind in (
        ("scores.csv", "evaluate suite"),
        ("comparisons.csv", "evaluate"),
        ("evaluation.json", "evaluate batching"),
        ("results.csv", "evaluate"),
        ("goodput.json", "goodput"),
        ("validation.json", "validate"),
        ("requests.parquet", "simulate"),
    ):
        if has(name):
            return kind
    if has("training.csv", "finished.json", "run.lock") or (folder / "checkpoints").is_dir():
        return "train"
    if (folder / "episodes").is_dir() and has("config.yaml", "command.txt"):
        return "study"
    if has("config.yaml", "metrics.json"):
        keys = _top_keys(folder / "config.yaml")
        return "train" if "total_steps" in keys else "study" if "episode_requests" in keys else "simulate"
    return None


def read_run(folder: Path, kind: str) -> Run:
    """What a folder holds; unfinished or damaged where files lack or cannot be read."""
    bare = Run(RunRecord(folder, kind))
    missing = [name for name in NEEDED[kind] if not (folder / name).is_file()]
    if missing:
        status = UNFINISHED if WRITTEN_LAST.get(kind) in missing else DAMAGED
        return replace(bare, status=status, problem=f"lacks {', '.join(missing)}")
    try:
        for name in NEEDED[kind]:
            if name.endswith(".csv"):
                bare.rows(name)
        return Run(_record(folder, kind))
    except InputError as error:
        return replace(bare, status=DAMAGED, problem=str(error))
    except (OSError, ValueError, csv.Error, yaml.YAMLError) as error:
        return replace(bare, status=DAMAGED, problem=(str(error).splitlines() or [type(error).__name__])[0])


def _record(folder: Path, kind: str) -> RunRecord:
    """Its record, made here for kinds that keep all in one file of answers."""
    if records.kind_of(folder) is not None:
        return replace(records.read_record(folder), kind=kind)
    bare = Run(RunRecord(folder, kind))
    provenance = bare.json("provenance.json")
    typed = folder / "command.txt"
    commands = typed.read_text().splitlines() if typed.is_file() else [provenance.get("command")]
    config = folder / "config.yaml"
    return RunRecord(
        folder,
        kind,
        commands=tuple(filter(None, commands)),
        config=yaml.load(config.read_text(), yaml.SafeLoader) if config.is_file() else {},
        provenance=provenance,
    )


def grouped(runs: Iterable[Run], *apart_from: str) -> list[list[Run]]:
    """Runs whose configurations differ in some keys only, such as `seed`."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps(run.settings(*apart_from), sort_keys=True, default=str)
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _runs_under(path: Path) -> Iterator[Run]:
    """The run in a folder and the evaluation inside it, or the runs below."""
    if not path.is_dir():
        return
    kind = kind_of(path)
    if kind == "sweep":
        yield from _runs_of_sweep(path)
        return
    if kind is not None:
        yield read_run(path, kind)
    for each in sorted(path.iterdir()):
        if each.is_dir() and not each.name.startswith(".") and (kind is None or each.name == "evaluation"):
            yield from _runs_under(each)


def _runs_of_sweep(folder: Path) -> Iterator[Run]:
    """The runs that a sweep has made, where their folders are still there; else what it kept of them."""
    command = json.loads((folder / "sweep.json").read_text())["command"]
    for path in sorted((folder / "jobs").glob("*.json")):
        label = folder / path.stem
        try:
            job = json.loads(path.read_text())
            words, status = tuple(job["words"]), str(job["status"])
        except (OSError, ValueError, KeyError, TypeError):
            yield Run(RunRecord(label, command), DAMAGED, f"{path.name} cannot be read", str(folder))
            continue
        if status != FINISHED:
            yield Run(RunRecord(label, command), FAILED, job.get("error", status), str(folder), words)
            continue
        answer = job.get("answer", {})
        written = _folder_of(answer, folder)
        kind = written and kind_of(written)
        if written is not None and kind and kind != "sweep":
            run = read_run(written, kind)
        else:
            run = Run(RunRecord(label, command), answer=answer)
        yield replace(run, sweep=str(folder), words=words)


def _folder_of(answer: dict[str, Any], sweep: Path) -> Path | None:
    """Where a run has written: relative to where it ran, which is here or a folder that the sweep is in."""
    name = answer.get("out") or answer.get("run_dir")
    if name is None:
        return None
    places: Iterator[Path] = (root / name for root in (Path(), *sweep.resolve().parents))
    return next((place for place in places if place.is_dir()), None)


def _top_keys(path: Path) -> set[str]:
    """Keys of a configuration that need no reading of all of it."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return set()
    return {line.partition(":")[0] for line in lines if line[:1].isalpha()}


def differing_keys(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Keys of flat configurations that have several values, but for where runs write.

    Keys that only some have, always with the same value, follow from another key, unless they are names.
    """
    known: dict[str, list[str]] = {}
    for config in configs:
        for key, value in config.items():
            known.setdefault(key, []).append(as_word(value))
    return [
        key
        for key, values in known.items()
        if not _is_of(key, APART_FROM)
        and (len(set(values)) > 1 or (len(values) < len(configs) and key.endswith("name")))
    ]


def distinct_labels(names: Sequence[str], configs: Sequence[dict[str, Any]]) -> list[str]:
    """Each name with the keys, and their values, in which flat configurations of the same name differ.

    >>> distinct_labels(["a", "a", "b"], [{"x.rate": 1}, {"x.rate": 2}, {"x.rate": 3}])
    ['a, rate=1', 'a, rate=2', 'b']
    """
    alike: dict[str, list[dict[str, Any]]] = {}
    for name, config in zip(names, configs, strict=True):
        alike.setdefault(name, []).append(config)
    keys = {name: differing_keys(each) for name, each in alike.items()}
    return [
        ", ".join(
            [
                name,
                *(f"{key.rpartition('.')[2]}={as_word(config[key])}" for key in keys[name] if key in config),
            ]
        )
        for name, config in zip(names, configs, strict=True)
    ]


def _is_of(key: str, names: Sequence[str]) -> bool:
    """Whether a dotted key is one of some names or below one."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def as_word(value: Any) -> str:
    """A value of a configuration, as it would be typed."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value)
