"""`servegym data`: list, fetch and verify public traces and measurements."""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig
from rich.console import Console

from servegym.costmodels.errors import InputError
from servegym.costmodels.progress import Advance, progress, tracked
from servegym.envs.workloads.catalogue import Dataset, catalogue, find_datasets
from servegym.envs.workloads.data import fetch_folder, find_data
from servegym.envs.workloads.download import check, fetch
from servegym.experiments.configs import read_config


@dataclass
class DataConfig:
    """Schema of `conf/data.yaml`."""

    what: str = MISSING
    names: list[str] | None = None
    folder: str | None = None
    timeout_s: float = MISSING
    attempts: int = MISSING

    def __post_init__(self) -> None:
        if self.timeout_s != MISSING and not 0 < self.timeout_s < math.inf:
            raise InputError(f"timeout_s = {self.timeout_s}: must be positive and finite")
        if self.attempts != MISSING and self.attempts < 1:
            raise InputError(f"attempts = {self.attempts}: must be at least 1")


def data(config: DictConfig) -> dict[str, Any]:
    """Does what `what` names; InputError where files that are there are not what was published."""
    settings = read_config(config, DataConfig)
    if settings.what not in ACTIONS:
        raise InputError(f"data {settings.what}: must be one of {', '.join(ACTIONS)}")
    datasets = list(catalogue().values()) if settings.names is None else find_datasets(settings.names)
    return {"what": settings.what, "datasets": ACTIONS[settings.what](settings, datasets)}


def show(answer: dict[str, Any]) -> None:
    """Prints each dataset with its files."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for name, dataset in answer["datasets"].items():
        console.print(f"{name}  {dataset['what']}", style="bold")
        cited = f"; {dataset['citation']}" if dataset["citation"] else ""
        console.print(f"  {dataset['licence']}; {dataset['source']}{cited}", style="dim")
        for path, file in dataset["files"].items():
            console.print(f"  {file['state']:<9} {_megabytes(file['size'])}  {file['at'] or path}")


def _describe(dataset: Dataset, files: dict[str, tuple[str, Path | None]]) -> dict[str, Any]:
    """JSON of a dataset; `files` by path: their state, and where they lie."""
    return {
        "what": dataset.what,
        "licence": dataset.licence,
        "source": dataset.source,
        "citation": dataset.citation,
        "files": {
            file.path: {
                "state": files[file.path][0],
                "at": None if files[file.path][1] is None else str(files[file.path][1]),
                "size": file.size,
                "url": file.url,
                "sha256": file.sha256,
            }
            for file in dataset.files
            if file.path in files
        },
    }


def _list(settings: DataConfig, datasets: list[Dataset]) -> dict[str, Any]:
    answers = {}
    for dataset in datasets:
        places = {file.path: find_data(file.path) for file in dataset.files}
        files = {path: ("here" if place else "absent", place) for path, place in places.items()}
        answers[dataset.name] = _describe(dataset, files)
    return answers


def _fetch(settings: DataConfig, datasets: list[Dataset]) -> dict[str, Any]:
    """Fetches the files that are not in the folder as published."""
    if settings.names is None:
        raise InputError(f"names is null: fetch wants names=[...] of {', '.join(catalogue())}")
    folder = Path(settings.folder) if settings.folder is not None else fetch_folder()
    answers = {}
    for dataset in datasets:
        print(f"{dataset.name}: licence {dataset.licence}, {dataset.source}", file=sys.stderr)
        files: dict[str, tuple[str, Path | None]] = {}
        for file in dataset.files:
            target = folder / file.path
            if target.exists() and check(file, target) is None:
                files[file.path] = ("here", target)
                continue
            with progress(target.name, unit="MB") as advance:
                fetch(
                    file,
                    folder,
                    progress=partial(_advance, advance),
                    timeout_s=settings.timeout_s,
                    attempts=settings.attempts,
                )
            files[file.path] = ("fetched", target)
        answers[dataset.name] = _describe(dataset, files)
    return answers


def _advance(advance: Advance, have: int, total: int | None) -> None:
    advance.to(have / 1e6, None if total is None else total / 1e6)


def _verify(settings: DataConfig, datasets: list[Dataset]) -> dict[str, Any]:
    """Reads every file that is there; InputError names those that are not as published."""
    answers, bad = {}, []
    for dataset in datasets:
        files: dict[str, tuple[str, Path | None]] = {}
        for file in tracked(dataset.files, dataset.name, "files"):
            path = find_data(file.path)
            if path is None:
                continue
            if wrong := check(file, path):
                bad.append(f"{path}: {wrong}")
            # Where no checksum is known, only gzip's own was compared.
            files[file.path] = ("readable" if file.sha256 is None else "verified", path)
        answers[dataset.name] = _describe(dataset, files)
    if bad:
        raise InputError(f"{len(bad)} files are not as published: {'; '.join(bad)}")
    return answers


def _megabytes(size: int | None) -> str:
    return "     ? MB" if size is None else f"{size / 1e6:6.2f} MB"


ACTIONS: dict[str, Callable[[DataConfig, list[Dataset]], dict[str, Any]]] = {
    "list": _list,
    "fetch": _fetch,
    "verify": _verify,
}
"""What can be done with datasets."""
