"""Text files with one record a line: CSV and JSON lines, plain or gzip."""

import csv
import gzip
import io
import json
import reprlib
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from servegym.costmodels.errors import InputError


class Row(NamedTuple):
    """The wanted fields of one row, as text, and its line in the file (1-based, the header is line 1)."""

    line: int
    fields: list[str]


def read_rows(path: str | Path, columns: Sequence[str]) -> list[Row]:
    """The fields of these columns in every row of a `.csv` or `.csv.gz` file; blank lines are skipped.

    Raises `InputError` for a file that cannot be read or decoded, a missing column, a row of another
    length than the header, and a file without rows.
    """
    text = read_text(path)
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


def read_json_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of every line of a `.jsonl` or `.jsonl.gz` file; blank lines are skipped.

    Raises `InputError` for a file that cannot be read or decoded, a line that is not a JSON object, and a
    file without any.
    """
    empty = True
    for line, text in enumerate(read_text(path).splitlines(), start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise InputError(f"{path}, line {line}: is {reprlib.repr(text)}, allowed: a JSON object")
        empty = False
        yield line, record
    if empty:
        raise InputError(f"{path}, line 1: the file holds nothing, allowed: at least one JSON object")


def read_text(path: str | Path) -> str:
    """The text of a file, of a `.gz` file its content; `InputError` where it cannot be read or decoded."""
    opener = gzip.open if Path(path).suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            content: bytes = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: not a complete gzip file ({error}), allowed: plain text, or gzip in a .gz file"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), allowed: a readable file") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        value = error.object[error.start]
        raise InputError(
            f"{path}, line {line}: byte 0x{value:02x} is not UTF-8, allowed: UTF-8 text"
        ) from None
