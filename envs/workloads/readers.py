"""Read request traces from CSV files; a bad row is refused by file, line and value."""

import csv
import gzip
import io
import re
import reprlib
import zlib
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.workload import MAX_TOKENS, Workload

_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:\+00:00)?", re.ASCII)


class Row(NamedTuple):
    """The wanted fields of one row, as text, and its line in the file (1-based, the header is line 1)."""

    line: int
    fields: list[str]


def read_rows(path: str | Path, columns: Sequence[str]) -> list[Row]:
    """The fields of these columns in every row of a `.csv` or `.csv.gz` file; blank lines are skipped.

    Raises `InputError` for a file that cannot be read or decoded, a missing column, a row of another
    length than the header, and a file without rows.
    """
    text = _read_text(path)
    reader = csv.reader(io.StringIO(text, newline=None), strict=True)
    rows: list[Row] = []
    positions: list[int] = []
    width = 0
    try:
        for fields in reader:
            if not fields:
                continue
            if not positions:
                header = [field.strip() for field in fields]
                for column in columns:
                    if header.count(column) != 1:
                        raise InputError(
                            f"{path}, line {reader.line_num}: column {column!r} is missing or repeated, "
                            f"found: {reprlib.repr(header)}, allowed: each of {', '.join(columns)} once"
                        )
                positions = [header.index(column) for column in columns]
                width = len(header)
                continue
            if len(fields) != width:
                raise InputError(
                    f"{path}, line {reader.line_num}: row has {len(fields)} fields, "
                    f"allowed: {width} as in the header"
                )
            rows.append(Row(reader.line_num, [fields[i].strip() for i in positions]))
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: {error}, allowed: comma-separated values"
        ) from None
    if not rows:
        found = "only a header" if positions else "nothing"
        raise InputError(
            f"{path}, line 1: the file holds {found}, allowed: a header and at least one request"
        )
    return rows


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


READERS: dict[str, Callable[[str | Path], Workload]] = {"azure": read_azure, "csv": read_csv}


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


def _read_text(path: str | Path) -> str:
    opener = gzip.open if Path(path).suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            content: bytes = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: not a complete gzip file ({error}), allowed: .csv, or .csv.gz in gzip"
        ) from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}), allowed: a .csv or .csv.gz file"
        ) from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        value = error.object[error.start]
        raise InputError(
            f"{path}, line {line}: byte 0x{value:02x} is not UTF-8, allowed: UTF-8 text"
        ) from None


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
