"""`servegym runs`: what there is of results, what is in them, where they differ, and what can go."""

import shutil
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig
from rich.console import Console
from rich.table import Table

from servegym.costmodels.errors import InputError
from servegym.experiments.config_differences import flat
from servegym.experiments.configs import read_config
from servegym.experiments.studies.record import KINDS, RunRecord, find_records, read_record

WHAT = ("list", "show", "compare", "prune")

DAY_S = 86_400.0

SHOWN = ("score", "mean_ttft_s", "p99_ttft_s", "mean_latency_s", "goodput_rps", "mean_return")
"""Figures that a list shows, the first two that a run has."""


@dataclass
class RunsConfig:
    """Schema of `conf/runs.yaml`."""

    what: str = MISSING
    runs: list[str] = field(default_factory=list)
    root: str = "runs"
    kind: str | None = None
    older_than_days: float = 7.0
    delete: bool = False

    def __post_init__(self) -> None:
        if self.what != MISSING and self.what not in WHAT:
            raise InputError(f"what = {self.what}: must be one of {', '.join(WHAT)}")
        if self.kind is not None and self.kind not in KINDS:
            raise InputError(f"kind = {self.kind}: must be one of {', '.join(KINDS)}")
        if not self.older_than_days >= 0:
            raise InputError(f"older_than_days = {self.older_than_days}: must be at least 0")


def runs(config: DictConfig) -> dict[str, Any]:
    """Does one of WHAT with the folders given, or with all below `root`.

    InputError for folders that hold no results.
    """
    settings = read_config(config, RunsConfig)
    if settings.what in ("show", "compare") and not settings.runs:
        raise InputError(f"runs {settings.what}: no runs given; must be folders of results")
    records = _records(settings)
    answer: dict[str, Any] = {"what": settings.what}
    if settings.what == "list":
        return answer | {"runs": [_summary(record) for record in records]}
    if settings.what == "show":
        return answer | {"runs": [_details(record) for record in records]}
    if settings.what == "compare":
        return answer | _comparison(records)
    return answer | _pruned(records, settings)


def show(answer: dict[str, Any]) -> None:
    """Prints tables for a person."""
    console = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 160)
    {"list": _show_list, "show": _show_details, "compare": _show_comparison, "prune": _show_pruned}[
        answer["what"]
    ](answer, console)


def _records(settings: RunsConfig) -> list[RunRecord]:
    if settings.runs:
        found = [read_record(Path(run)) for run in settings.runs]
    else:
        found = find_records(Path(settings.root))
    return [record for record in found if settings.kind in (None, record.kind)]


def _summary(record: RunRecord) -> dict[str, Any]:
    shown = [name for name in SHOWN if name in record.metrics][:2]
    return {
        "run": str(record.path),
        "kind": record.kind,
        "about": record.subject,
        "seed": record.config.get("seed"),
        "status": "finished" if record.is_finished else "unfinished",
        "written": record.written.isoformat(timespec="seconds"),
        "figures": {name: record.metrics[name] for name in shown},
    }


def _details(record: RunRecord) -> dict[str, Any]:
    return _summary(record) | {
        "missing": list(record.missing),
        "commands": list(record.commands),
        "seconds": record.seconds,
        "size_bytes": record.size_bytes,
        "provenance": record.provenance,
        "figures": record.metrics,
        "config": record.config,
    }


def _comparison(records: list[RunRecord]) -> dict[str, Any]:
    """The keys in which configurations differ, what of code and machine differs, and all figures."""
    configs = [flat(record.config) for record in records]
    origins = [flat(record.provenance) for record in records]
    return {
        "runs": [str(record.path) for record in records],
        "differing": _differing(configs, but=("run_dir", "out")),
        "provenance": _differing(origins),
        "figures": {
            name: [record.metrics.get(name) for record in records]
            for name in dict.fromkeys(name for record in records for name in record.metrics)
        },
    }


def _differing(trees: list[dict[str, Any]], but: tuple[str, ...] = ()) -> dict[str, list[Any]]:
    keys = dict.fromkeys(key for tree in trees for key in tree if key not in but)
    values = {key: [tree.get(key) for tree in trees] for key in keys}
    return {key: each for key, each in values.items() if any(value != each[0] for value in each)}


def _pruned(records: list[RunRecord], settings: RunsConfig) -> dict[str, Any]:
    """Unfinished folders that nobody has written to for so many days, and checkpoints of finished runs."""
    now = datetime.now(UTC)
    going: list[Path] = []
    for record in records:
        if record.is_finished and (record.path / "checkpoints").is_dir():
            going.append(record.path / "checkpoints")
        old = (now - record.written).total_seconds() > settings.older_than_days * DAY_S
        if not record.is_finished and old:
            going.append(record.path)
    sizes = [sum(path.stat().st_size for path in each.rglob("*") if path.is_file()) for each in going]
    if settings.delete:
        for each in going:
            shutil.rmtree(each)
    return {
        "deleted": settings.delete,
        "folders": [
            {"folder": str(each), "size_bytes": size} for each, size in zip(going, sizes, strict=True)
        ],
    }


def _show_list(answer: dict[str, Any], console: Console) -> None:
    table = Table(title=f"{len(answer['runs'])} folders of results")
    for heading in ("run", "kind", "about", "seed", "status", "written", "figures"):
        table.add_column(heading, overflow="fold")
    for run in answer["runs"]:
        figures = ", ".join(f"{name} {value:,.4g}" for name, value in run["figures"].items())
        seed = "" if run["seed"] is None else str(run["seed"])
        written = run["written"][:16].replace("T", " ")
        table.add_row(run["run"], run["kind"], run["about"], seed, run["status"], written, figures)
    console.print(table)


def _show_details(answer: dict[str, Any], console: Console) -> None:
    for run in answer["runs"]:
        lacks = f", lacks {', '.join(run['missing'])}" if run["missing"] else ""
        took = "" if run["seconds"] is None else f", {run['seconds']:,.0f} s"
        size = f"{run['size_bytes'] / 1e6:,.1f} MB"
        console.print(f"{run['run']}: {run['kind']}, {run['about']}; {run['status']}{lacks}{took}, {size}")
        for command in run["commands"]:
            console.print(f"  {command}", markup=False)
        origin = run["provenance"]
        if origin.get("git_commit"):
            dirty = " and changes (code.diff)" if origin.get("git_dirty") else ""
            console.print(f"  code: {origin['git_commit']}{dirty}; machine: {origin.get('cpu')}")
        for name, value in run["figures"].items():
            console.print(f"  {name} = {value:,.6g}")
        for key, value in flat(run["config"]).items():
            console.print(f"  {key} = {value}", markup=False)


def _show_comparison(answer: dict[str, Any], console: Console) -> None:
    table = Table(title="Where they differ, and what came out")
    table.add_column("")
    for run in answer["runs"]:
        table.add_column(run, overflow="fold")
    for part in ("differing", "provenance", "figures"):
        for key, values in answer[part].items():
            table.add_row(key, *("" if value is None else _cell(value) for value in values))
        table.add_section()
    console.print(table)


def _cell(value: Any) -> str:
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def _show_pruned(answer: dict[str, Any], console: Console) -> None:
    total = sum(each["size_bytes"] for each in answer["folders"])
    for each in answer["folders"]:
        console.print(f"{each['folder']}: {each['size_bytes'] / 1e6:,.1f} MB")
    done = "deleted" if answer["deleted"] else "would be deleted by delete=true"
    console.print(f"{len(answer['folders'])} folders, {total / 1e6:,.1f} MB: {done}")
