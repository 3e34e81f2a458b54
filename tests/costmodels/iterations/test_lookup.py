"""Vidur's look-ups: rounding of the keys, what a table must hold, and the times of Vidur's own batches."""

import csv
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.cost import IterationCost
from servegym.costmodels.iterations.lookup import (
    PER_TOKEN_OPERATORS,
    LookupAttention,
    lookup_decode_seconds,
    lookup_prefill_seconds,
    read_lookup_tables,
    rounded_history,
)
from servegym.costmodels.native.jit import jit


def batch_seconds(
    cost: IterationCost,
    lookup: LookupAttention,
    tokens: np.ndarray,
    computed: np.ndarray,
    is_prefill: np.ndarray,
) -> float:
    """One iteration from its entries (N,): tokens given, tokens computed before, whether a prefill."""
    chunks, histories = tokens[is_prefill].tolist(), computed[is_prefill].tolist()
    num_decodes = int(np.sum(~is_prefill))
    return (
        float(cost.linear_s[int(tokens.sum())])
        + lookup_decode_seconds(lookup, num_decodes, int(computed[~is_prefill].sum()) + num_decodes)
        + lookup_prefill_seconds(
            lookup, sum(map(rounded_history, histories)), sum(chunk * chunk for chunk in chunks)
        )
    )


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Times that tell which key was looked up: ms = key for tokens, 1000 B + kv, kv + root of the squares."""
    for operator in PER_TOKEN_OPERATORS:
        rows = [f"{n},{n / 10}" for n in range(1, 25)]
        write(tmp_path / f"table_{operator}.csv", "num_tokens,ms", rows)
    decode = [f"{b},{kv},{1000 * b + kv}" for b in (1, 2, 3) for kv in (0, 64, 128)]
    write(tmp_path / "table_attn_decode.csv", "batch_size,kv_cache_size,ms", decode)
    prefill = [f"{kv},{root**2},{kv + root}" for kv in (0, 64, 128) for root in range(1, 25)]
    write(tmp_path / "table_attn_prefill.csv.gz", "kv_cache_size,prefill_chunk_size_squared,ms", prefill)
    return tmp_path


def write(path: Path, header: str, rows: list[str]) -> None:
    text = "\n".join([header, *rows]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def seconds(folder: Path, *entries: tuple[int, int, bool], layers: int = 2) -> float:
    tokens, computed, is_prefill = (np.array(column) for column in zip(*entries, strict=True))
    return batch_seconds(*read_lookup_tables(folder, layers), tokens, computed, is_prefill)


@pytest.mark.parametrize(
    "entries, milliseconds",
    [
        ([(1, 63, False)], 8 + 1000 + 64),  # 64 KV tokens: not rounded further
        ([(1, 64, False)], 8 + 1000 + 128),
        ([(1, 63, False), (1, 64, False)], 8 + 2000 + 64),  # mean 64.5 is truncated before it is rounded up
        ([(9, 0, True)], 16 + 9),
        ([(3, 1, True), (4, 64, True)], 8 + 128 + 5),  # each history is rounded up; 3, 4, 5
        ([(1, 1, True), (1, 0, False)], 8 + 1000 + 64 + 64 + 1),
        ([(10, 0, True), (10, 0, True)], 24 + 14),  # root of 200 is 14.1
    ],
)
def test_keys_are_rounded_as_vidur_does(
    tables: Path, entries: list[tuple[int, int, bool]], milliseconds: float
) -> None:
    for layers in (1, 32):
        expected = layers * milliseconds * 1e-3
        assert seconds(tables, *entries, layers=layers) == pytest.approx(expected, rel=1e-12)


def test_compiled_lookups_refuse_what_the_tables_lack(tables: Path) -> None:
    _, lookup = read_lookup_tables(tables, 1)

    @jit
    def look(lookup: LookupAttention, decodes: int, kv: int, history: int, squares: int) -> float:
        return lookup_decode_seconds(lookup, decodes, kv) + lookup_prefill_seconds(
            lookup, rounded_history(history), squares
        )

    assert look(lookup, 3, 3 * 128, 65, 24 * 24) == pytest.approx(3.128 + 0.128 + 0.024, rel=1e-12)
    assert look(lookup, 0, 0, 0, 0) == 0
    for beyond in ((4, 4, 0, 0), (1, 129, 0, 0)):
        with pytest.raises(ValueError, match="table of decode attention"):
            look(lookup, *beyond)
    for beyond in ((0, 0, 129, 1), (0, 0, 0, 25 * 25)):
        with pytest.raises(ValueError, match="table of prefill attention"):
            look(lookup, *beyond)


@pytest.mark.parametrize(
    "name, old, new, message",
    [
        ("table_add.csv", b"\n16,1.6\n", b"\n", "table_add.csv: 0 rows with num_tokens = 16: must be 1"),
        ("table_add.csv", b"\n16,1.6\n", b"\n8,1.6\n", "2 rows with num_tokens = 8"),
        ("table_add.csv", b"\n16,1.6\n", b"\n16,-1.6\n", r"ms = -1.6: must be finite, at least 0"),
        ("table_add.csv", b"\n16,1.6\n", b"\n16,fast\n", "cannot be read as columns num_tokens, ms"),
        ("table_add.csv", b"num_tokens,ms", b"tokens,ms", "cannot be read as columns num_tokens, ms"),
        (
            "table_attn_decode.csv",
            b"\n2,64,2064.0\n",
            b"\n",
            "0 rows with batch_size = 2, kv_cache_size = 64",
        ),
        (
            "table_attn_decode.csv",
            b"\n2,64,",
            b"\n2,65,",
            "kv_cache_size = 65: must be 0 or a multiple of 64",
        ),
    ],
)
def test_bad_tables_are_refused(tables: Path, name: str, old: bytes, new: bytes, message: str) -> None:
    text = (tables / name).read_bytes().replace(b"2064", b"2064.0")
    assert old in text
    (tables / name).write_bytes(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        read_lookup_tables(tables, 1)


def test_a_chunk_that_is_no_square_and_a_missing_table_are_named(tables: Path) -> None:
    path = tables / "table_attn_prefill.csv.gz"
    rows = gzip.decompress(path.read_bytes()).decode().splitlines()
    write(path, rows[0], [*rows[1:], "128,626,1"])
    with pytest.raises(InputError, match="prefill_chunk_size_squared = 626: must be the square of 1 or"):
        read_lookup_tables(tables, 1)
    path.unlink()
    with pytest.raises(InputError, match=r"no table_attn_prefill.csv and no table_attn_prefill.csv.gz"):
        read_lookup_tables(tables, 1)


def test_every_batch_of_the_reference_runs(real_data: Callable[[str], Path]) -> None:
    """To 1e-9 of the times that Vidur wrote."""
    folder = real_data("../reference/vidur")
    cost, lookup = read_lookup_tables(folder / "tables", 32)
    for path in sorted(folder.glob("*/batches.csv.gz")):
        with gzip.open(path, "rt") as file:
            batches = list(csv.reader(file))[1:]
        assert len(batches) > 4000
        for batch in batches:
            entries = np.array([entry.split(":") for entry in batch[8].split()], int)
            is_prefill = entries[:, 3] == 0
            computed = entries[:, 2] - entries[:, 3]
            found = batch_seconds(cost, lookup, entries[:, 1], computed, is_prefill)
            assert found == pytest.approx(float(batch[4]), rel=1e-9)
