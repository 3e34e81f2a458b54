"""Tables of prompt and output lengths without arrivals, to draw requests from."""

import json
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.text_files import read_rows, read_text
from servegym.envs.workloads.workload import MAX_TOKENS

COLUMNS = ("num_prefill_tokens", "num_decode_tokens")


@dataclass(frozen=True, eq=False)
class LengthTable:
    """Observed pairs of lengths, drawn with replacement, so their dependence is the observed one."""

    prompt_tokens: npt.NDArray[np.int32]  # (M,)
    output_tokens: npt.NDArray[np.int32]  # (M,)

    def sample(self, n: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Draw n requests."""
        rows = rng.integers(len(self.prompt_tokens), size=n)
        return self.prompt_tokens[rows], self.output_tokens[rows]


def read_lengths(path: str | Path) -> LengthTable:
    """A table with columns num_prefill_tokens and num_decode_tokens, as Vidur's traces have them.

    A name with `.json` is an array of objects with these keys, any other CSV; both may be gzip (`.gz`).
    Raises `InputError` for a bad entry by file, line (of JSON: entry, from 0) and value.
    """
    allowed = f"whole numbers from 1 to {MAX_TOKENS}"
    pairs = []
    for where, values in _json_entries(path) if ".json" in Path(path).suffixes else _csv_entries(path):
        for column, value in zip(COLUMNS, values, strict=True):
            if type(value) is not int or not 1 <= value <= MAX_TOKENS:
                raise InputError(f"{where}: {column} is {reprlib.repr(value)}, allowed: {allowed}")
        pairs.append(values)
    prompts, outputs = np.array(pairs, dtype=np.int32).T
    return LengthTable(prompts, outputs)


def _csv_entries(path: str | Path) -> list[tuple[str, list[Any]]]:
    """Numbers that are not whole stay texts."""
    return [
        (
            f"{path}, line {line}",
            [int(t) if t.isascii() and t.isdecimal() and len(t) < 20 else t for t in texts],
        )
        for line, texts in read_rows(path, COLUMNS)
    ]


def _json_entries(path: str | Path) -> list[tuple[str, list[Any]]]:
    try:
        entries = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({error}), allowed: an array of objects") from None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path}: is {reprlib.repr(entries)}, allowed: an array of at least one object")
    return [(f"{path}, entry {i}", [entry.get(c) for c in COLUMNS]) for i, entry in enumerate(entries)]
