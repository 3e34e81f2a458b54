"""A run of another simulator (Vidur): its settings, what happened to its requests, and its batches.

A run is a folder with `reference.json`, `requests.csv` and `batches.csv`; each CSV may be a `.csv.gz`.
Paths in `reference.json` are relative to the folder.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.log import ENTRY, ITERATION, PREEMPTION, IterationLog
from servegym.envs.workloads import Workload, read_trace

Columns = dict[str, npt.NDArray[Any]]

SETTINGS_FILE = "reference.json"
ENTRIES = "entries(request:tokens:processed_before:prefill_done)"


@dataclass(frozen=True, eq=False)
class ReferenceRun:
    """N requests and their batches as another simulator has them.

    settings: all of `reference.json`; tables: folder of operator times, each for one layer.
    replica, restarts: int (N,); scheduled_s, first_token_s, finish_s: float64 (N,).
    log: the batches, with `computed` as docs/simulator.md counts (Vidur's `processed` is one more once the
    prefill is complete); `kv_used_blocks`, hits and preemptions are not known.
    """

    name: str
    settings: dict[str, Any]
    scheduler: str
    num_replicas: int
    num_layers: int
    tables: Path
    workload: Workload
    replica: npt.NDArray[np.int64]
    restarts: npt.NDArray[np.int64]
    scheduled_s: npt.NDArray[np.float64]
    first_token_s: npt.NDArray[np.float64]
    finish_s: npt.NDArray[np.float64]
    log: IterationLog

    def setting(self, key: str, kind: type) -> Any:
        """A value of `reference.json`; InputError where it is missing or of another type."""
        return _value(f"{self.name}/{SETTINGS_FILE}", self.settings, key, kind)


def find_runs(folder: Path) -> list[Path]:
    """The runs in `folder`, by name, or `folder` itself where it is one. InputError where there is none."""
    if (folder / SETTINGS_FILE).is_file():
        return [folder]
    runs = sorted(path.parent for path in folder.glob(f"*/{SETTINGS_FILE}"))
    if not runs:
        raise InputError(f"reference = {folder}: no {SETTINGS_FILE}, there or in a folder of it")
    return runs


def read_reference_run(folder: Path) -> ReferenceRun:
    """Reads one run. InputError names the file and what is wrong with it."""
    where = f"{folder.name}/{SETTINGS_FILE}"
    try:
        settings = json.loads((folder / SETTINGS_FILE).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / SETTINGS_FILE}: cannot be read as JSON: {error}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{where}: must be a JSON object")
    workload = read_trace(_existing(folder / _value(where, settings, "trace", str)), "csv")
    router = _value(where, settings, "router", str)
    if router != "round_robin":
        raise InputError(f"{where}: router = {router}: must be round_robin")
    requests = _read_requests(folder, workload)
    return ReferenceRun(
        name=folder.name,
        settings=settings,
        scheduler=_value(where, settings, "scheduler", str),
        num_replicas=_value(where, settings, "replicas", int),
        num_layers=_value(where, settings, "layers", int),
        tables=folder / _value(where, settings, "tables", str),
        workload=workload,
        replica=requests["replica_id"],
        restarts=requests["num_restarts"],
        scheduled_s=requests["scheduled_at"],
        first_token_s=requests["prefill_completed_at"],
        finish_s=requests["completed_at"],
        log=_read_batches(folder, workload.num_requests),
    )


def _read_requests(folder: Path, workload: Workload) -> Columns:
    times = ("scheduled_at", "prefill_completed_at", "completed_at")
    numbers = ("request_id", "replica_id", "num_restarts")
    path, columns = _read(
        folder / "requests.csv", {**_typed(pa.int64(), numbers), **_typed(pa.float64(), times)}
    )
    order = np.argsort(columns["request_id"], kind="stable")
    if not np.array_equal(columns["request_id"][order], np.arange(workload.num_requests)):
        raise InputError(
            f"{path}: must hold every request of {workload.source} once, request_id from 0 to "
            f"{workload.num_requests - 1}"
        )
    return {name: column[order] for name, column in columns.items()}


def _read_batches(folder: Path, num_requests: int) -> IterationLog:
    types = {
        **_typed(pa.int64(), ("replica_id", "num_requests", "num_tokens")),
        **_typed(pa.float64(), ("scheduled_at", "completed_at")),
        ENTRIES: pa.string(),
    }
    path, columns = _read(folder / "batches.csv", types)
    counts = columns["num_requests"]
    text = " ".join(columns[ENTRIES].tolist()).replace(":", " ")
    try:
        numbers = np.array(text.split(), np.int64)
    except ValueError as error:
        raise InputError(f"{path}: {ENTRIES}: {error}") from error
    if numbers.size != 4 * counts.sum():
        raise InputError(f"{path}: {numbers.size} numbers in entries, num_requests means {4 * counts.sum()}")
    request, tokens, processed, prefill_done = numbers.reshape(-1, 4).T
    if np.any((request < 0) | (request >= num_requests)):
        raise InputError(f"{path}: a request id is not from 0 to {num_requests - 1}")
    entries = np.zeros(len(request), ENTRY)
    entries["request"], entries["tokens"], entries["is_prefill"] = request, tokens, prefill_done == 0
    entries["computed"] = processed - prefill_done
    iterations = np.zeros(len(counts), ITERATION)
    iterations["first_entry"] = np.cumsum(counts) - counts
    iterations["num_entries"] = counts
    iterations["start_s"], iterations["end_s"] = columns["scheduled_at"], columns["completed_at"]
    iterations["replica"], iterations["tokens"] = columns["replica_id"], columns["num_tokens"]
    batch = np.repeat(np.arange(len(counts)), counts)
    iterations["decodes"] = np.bincount(batch[prefill_done != 0], minlength=len(counts))
    return IterationLog.sorted(iterations, entries, np.zeros(0, PREEMPTION))


def _typed(kind: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return dict.fromkeys(names, kind)


def _read(path: Path, types: dict[str, Any]) -> tuple[Path, Columns]:
    path = _existing(path)
    options = pyarrow.csv.ConvertOptions(column_types=types, include_columns=list(types))
    try:
        table = pyarrow.csv.read_csv(path, convert_options=options)
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise InputError(f"{path}: cannot be read as columns {', '.join(types)}: {error}") from error
    for name in types:
        if table[name].null_count:
            raise InputError(f"{path}: {name} has {table[name].null_count} empty values, must have none")
    return path, {name: table[name].to_numpy() for name in types}


def _existing(path: Path) -> Path:
    """The file, or the same with `.gz`."""
    for each in (path, path.with_name(f"{path.name}.gz")):
        if each.is_file():
            return each
    raise InputError(f"{path}: no such file, nor {path.name}.gz")


def _value(where: str, settings: dict[str, Any], key: str, kind: type) -> Any:
    value = settings.get(key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        found = f"{key} = {value}" if key in settings else f"{key} is missing"
        raise InputError(f"{where}: {found}: must be of type {kind.__name__}")
    return value
