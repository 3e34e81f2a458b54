"""The public datasets that `servegym data` can fetch: what they are, where they lie, whose they are."""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

from servegym.costmodels.errors import InputError


@dataclass(frozen=True)
class DataFile:
    """One file of a dataset.

    `path`: where `find_data` looks for it; with `.gz` it is kept compressed. `url`: the file as published,
    at a fixed commit where there is one. `size` (bytes) and `sha256` are those of the published content;
    None where they are not known.
    """

    path: str
    url: str
    size: int | None
    sha256: str | None


@dataclass(frozen=True)
class Dataset:
    """Files that belong together, with their licence; the citation gives credit."""

    name: str
    what: str
    licence: str
    source: str
    citation: str
    files: tuple[DataFile, ...]


@cache
def catalogue() -> dict[str, Dataset]:
    """All datasets by name, from catalogue.json."""
    text = (resources.files("servegym.envs.workloads") / "catalogue.json").read_text(encoding="utf-8")
    datasets = {}
    for entry in json.loads(text):
        files = tuple(DataFile(**file) for file in entry.pop("files"))
        datasets[entry["name"]] = Dataset(**entry, files=files)
    return datasets


def find_datasets(names: list[str]) -> list[Dataset]:
    """The datasets of these names; `InputError` lists the names there are."""
    for name in names:
        if name not in catalogue():
            raise InputError(f"dataset is {name!r}, allowed: {', '.join(catalogue())}")
    return [catalogue()[name] for name in names]
