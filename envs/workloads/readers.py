"""Read request traces by format; a bad row is refused by file, line and value."""

import re
import reprlib
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.logged_workload import read_decisions
from servegym.envs.workloads.mooncake import read_mooncake
from servegym.envs.workloads.servegen import read_servegen
from servegym.envs.workloads.text_files import read_rows
from servegym.envs.workloads.workload import MAX_TOKENS, Workload

_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:\+00:00)?", re.ASCII)


def read_azure(path: str | Path) -> Workload:
    """An Azure LLM inference trace: columns TIMESTAMP, ContextTokens, GeneratedTokens.

    Times become seconds after the first arrival, exact to the 100 ns of the file. Format and data:
    https://github.com/Azure/AzurePublicDataset (Patel et al., Splitwise, ISCA 2024).
    """
    time = _Field("TIMESTAMP", _nanoseconds, "a time such as 2023-11-16 18:15:46.6805900")
    lines, times_ns, prompts, outputs = _read_requests(path, time, "ContextTokens", "GeneratedTokens")
    arrival_s = [(time_ns - times_ns[0]) / 1e9 for time_ns in times_ns]
    return _workload(path, lines, arrival_s, prompts, outputs)


def read_csv(path: str | Path) -> Workload:
    """A plain trace: columns arrived_at (seconds, kept as given), num_prefill_tokens, num_decode_tokens."""
    time = _Field("arrived_at", _seconds, "a finite number of seconds, at least 0")
    return _workload(path, *_read_requests(path, time, "num_prefill_tokens", "num_decode_tokens"))


READERS: dict[str, Callable[[str | Path], Workload]] = {
    "azure": read_azure,
    "csv": read_csv,
    "decisions": read_decisions,
    "mooncake": read_mooncake,
    "servegen": read_servegen,
}


def read_trace(path: str | Path, format: str) -> Workload:
    """Read a trace in one of the formats of `READERS`."""
    if format not in READERS:
        raise InputError(f"trace format is {format!r}, allowed: {', '.join(READERS)}")
    return READERS[format](path)


class _Field(NamedTuple):
    column: str
    parse: Callable[[str], Any]  # raises ValueError
    allowed: str


def _read_requests(
    path: str | Path, time: _Field, prompt_column: str, output_column: str
) -> tuple[list[int], list[Any], list[int], list[int]]:
    """Lines, times, prompt tokens and output tokens of all rows."""
    allowed_tokens = f"a whole number from 1 to {MAX_TOKENS}"
    fields = (
        time,
        _Field(prompt_column, _tokens, allowed_tokens),
        _Field(output_column, _tokens, allowed_tokens),
    )
    rows = read_rows(path, [field.column for field in fields])
    requests: list[list[Any]] = []
    for line, texts in rows:
        values = []
        for field, text in zip(fields, texts, strict=True):
            try:
                values.append(field.parse(text))
            except ValueError:
                raise InputError(
                    f"{path}, line {line}: {field.column} is {reprlib.repr(text)}, allowed: {field.allowed}"
                ) from None
        if requests and values[0] < requests[-1][0]:
            raise InputError(
                f"{path}, line {line}: {time.column} is {reprlib.repr(texts[0])}, "
                "earlier than the request before it, allowed: ascending times"
            )
        requests.append(values)
    times, prompts, outputs = (list(column) for column in zip(*requests, strict=True))
    return [row.line for row in rows], times, prompts, outputs


def _workload(
    path: str | Path, lines: list[int], arrival_s: list[float], prompts: list[int], outputs: list[int]
) -> Workload:
    return Workload(
        name=Path(path).name,
        arrival_s=np.array(arrival_s),
        prompt_tokens=np.array(prompts),
        output_tokens=np.array(outputs),
        source=str(path),
        source_line=np.array(lines),
    )


def _nanoseconds(text: str) -> int:
    """Since year 1, in Python integers: a float would lose the 100-ns digits."""
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise ValueError
    seconds = (datetime.fromisoformat(match[1]) - datetime.min) // timedelta(seconds=1)
    return seconds * 10**9 + int((match[2] or "0").ljust(9, "0"))


def _seconds(text: str) -> float:
    value = float(text)
    if "_" in text or not 0 <= value < float("inf"):  # float() takes 1_000, nan and inf
        raise ValueError
    return value


def _tokens(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MAX_TOKENS):
        raise ValueError
    return int(text)
