"""Reads the file of an offline run of Weights & Biases: its records in the log format of LevelDB."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK_BYTES = 32768
HEADER = b":W&B"
HEADER_BYTES = 7  # with a magic number and a version


def records(path: Path) -> Iterator[wandb_internal_pb2.Record]:
    """All records, in order."""
    data = path.read_bytes()
    assert data.startswith(HEADER)
    at, parts = HEADER_BYTES, b""
    while at < len(data):
        left = BLOCK_BYTES - at % BLOCK_BYTES
        if left < 7:  # too few for another piece
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def history(path: Path) -> list[dict[str, float]]:
    """Rows of what was logged."""
    return [_items(record.history.item) for record in records(path) if record.HasField("history")]


def configuration(path: Path) -> dict[str, Any]:
    """What the run was begun with."""
    (run,) = [record.run for record in records(path) if record.HasField("run")]
    return _items(run.config.update)


def _items(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}
