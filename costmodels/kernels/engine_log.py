"""Requests that a real engine served: a run folder of LLMServingSim (`meta.json`, `requests.jsonl`)."""

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.table import find

_FIELDS = (
    "input_toks", "output_toks", "arrival_time", "queued_ts", "scheduled_ts", "first_token_ts",
    "last_token_ts",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class EngineLog:
    """N requests of one run, in order of arrival, and the arguments of the engine that served them.

    The engine's clock and the client's have no common origin; the shortest way from arrival to the queue
    counts as 0. Arrays are (N,); times float64 in seconds, tokens int64.
    """

    model: str
    """As the engine was given it, such as "meta-llama/Llama-3.1-8B"."""
    software: str
    arguments: Mapping[str, Any]
    """The engine's own names: max_num_seqs, max_num_batched_tokens, tensor_parallel_size..."""
    input_tokens: npt.NDArray[np.int64]
    output_tokens: npt.NDArray[np.int64]
    arrival_s: npt.NDArray[np.float64]
    """At the client, after the first arrival."""
    queued_s: npt.NDArray[np.float64]
    """In the engine's queue, after the first arrival; at least `arrival_s`."""
    queueing_s: npt.NDArray[np.float64]
    """From the queue to the first schedule."""
    ttft_s: npt.NDArray[np.float64]
    """From the queue to the first token; add `queued_s - arrival_s` for what the client sees."""
    latency_s: npt.NDArray[np.float64]
    """From the queue to the last token."""

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def tpot_s(self) -> npt.NDArray[np.float64]:
        """Mean time between tokens after the first, (N,); NaN for one token."""
        gaps = np.where(self.output_tokens > 1, self.output_tokens - 1, np.nan)
        return (self.latency_s - self.ttft_s) / gaps


def read_engine_log(folder: str | Path) -> EngineLog:
    """Read a run folder. Raises InputError with file, line, field and value for what is not legal."""
    folder = Path(folder)
    meta_path = find(folder, "meta.json")
    try:
        meta = json.loads(_text(meta_path))
    except ValueError as error:
        raise InputError(f"{meta_path}: not JSON: {error}") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("engine_kwargs"), dict):
        raise InputError(f"{meta_path}: must be an object with an object engine_kwargs")

    path = find(folder, "requests.jsonl")
    rows = [
        _request(path, number, line)
        for number, line in enumerate(_text(path).splitlines(), 1)
        if line.strip()
    ]
    if not rows:
        raise InputError(f"{path}: no requests, must have at least one")
    columns = dict(zip(_FIELDS, np.array(sorted(rows, key=lambda row: row[2])).T, strict=True))
    arrival_s = columns["arrival_time"] - columns["arrival_time"][0]
    queued_s = columns["queued_ts"] - columns["queued_ts"][0]
    return EngineLog(
        model=str(meta.get("model", meta["engine_kwargs"].get("model", ""))),
        software=f"vllm {meta.get('vllm_version', '')}".strip(),
        arguments=meta["engine_kwargs"],
        input_tokens=columns["input_toks"].astype(np.int64),
        output_tokens=columns["output_toks"].astype(np.int64),
        arrival_s=arrival_s,
        queued_s=queued_s - (queued_s - arrival_s).min(),
        queueing_s=columns["scheduled_ts"] - columns["queued_ts"],
        ttft_s=columns["first_token_ts"] - columns["queued_ts"],
        latency_s=columns["last_token_ts"] - columns["queued_ts"],
    )


def _request(path: Path, number: int, line: str) -> list[float]:
    where = f"{path}, line {number}"
    try:
        record = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: not JSON: {error}") from None
    if not isinstance(record, dict):
        raise InputError(f"{where}: must be an object")
    values: list[float] = []
    for field in _FIELDS:
        value = record.get(field)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise InputError(f"{where}: {field} is {value!r}, must be a finite number")
        values.append(value)
    for field, value in zip(_FIELDS[:2], values[:2], strict=True):
        if value < 1 or value != int(value):
            raise InputError(f"{where}: {field} is {value!r}, must be an integer of at least 1")
    if values[3:] != sorted(values[3:]):
        raise InputError(
            f"{where}: {', '.join(_FIELDS[3:])} are {', '.join(map(str, values[3:]))}, must not decrease"
        )
    return values


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
