"""Iteration times as Vidur looks them up: every operator at a rounded key, no interpolation.

Agrawal et al., "Vidur: A Large-Scale Simulation Framework For LLM Inference", MLSys 2024, and its
`SklearnExecutionTimePredictor`, which rounds the keys as here. It serves the replay of Vidur's runs.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.cost import IterationCost, validate_iteration_cost
from servegym.costmodels.native.jit import kernel

TOKEN_MULTIPLE = 8
"""Tokens of a batch are rounded up to a multiple of this."""

KV_MULTIPLE = 64
"""KV lengths are rounded up to a multiple of this (Vidur's `kv_cache_prediction_granularity`)."""

PER_TOKEN_OPERATORS = (
    "attn_pre_proj",
    "attn_rope",
    "attn_kv_cache_save",
    "attn_post_proj",
    "input_layernorm",
    "post_attention_layernorm",
    "mlp_up_proj",
    "mlp_act",
    "mlp_down_proj",
    "add",
)
"""Once in every layer, by the tokens of the batch."""

Floats = NDArray[np.float64]


class LookupAttention(NamedTuple):
    """Seconds of attention in all layers, at keys `KV_MULTIPLE` tokens apart.

    decode_s: (M + 1, K) by decodes and mean KV length; prefill_s: (H, C + 1) by the sum of the chunks'
    rounded histories and the root of the sum of their squares. Row 0 and column 0 belong to no batch.
    """

    decode_s: Floats
    prefill_s: Floats


@kernel
def rounded_history(computed: int) -> int:
    """What a prefill chunk after `computed` tokens adds to the histories of its batch."""
    return -(-computed // KV_MULTIPLE) * KV_MULTIPLE


@kernel
def lookup_decode_seconds(lookup: LookupAttention, num_decodes: int, kv_tokens: int) -> float:
    """Attention of `num_decodes` decodes; each counts `computed + 1` towards `kv_tokens`, as in Vidur.

    ValueError beyond the table.
    """
    if num_decodes == 0:
        return 0.0
    at = -(-(kv_tokens // num_decodes) // KV_MULTIPLE)
    if num_decodes >= lookup.decode_s.shape[0] or at >= lookup.decode_s.shape[1]:
        raise ValueError("a batch has more or longer decodes than the table of decode attention")
    return float(lookup.decode_s[num_decodes, at])


@kernel
def lookup_prefill_seconds(lookup: LookupAttention, rounded_histories: int, squared_chunks: int) -> float:
    """Attention of a batch's prefill chunks, by sums over them: `rounded_history`, tokens squared.

    ValueError beyond the table.
    """
    if squared_chunks == 0:
        return 0.0
    row = rounded_histories // KV_MULTIPLE
    column = int(math.sqrt(squared_chunks) + 0.5)
    if row >= lookup.prefill_s.shape[0] or column >= lookup.prefill_s.shape[1]:
        raise ValueError("a batch has more or longer prefills than the table of prefill attention")
    return float(lookup.prefill_s[row, column])


def read_lookup_tables(folder: Path, num_layers: int) -> tuple[IterationCost, LookupAttention]:
    """Reads `table_OPERATOR.csv[.gz]`: keys and `ms`, for one layer each.

    All that is not attention becomes `linear_s` of an `IterationCost` whose own attention is zero. InputError
    names the table that is missing, or its first key that is missing, double or has no possible time.
    """
    if num_layers < 1:
        raise InputError(f"{folder}: layers = {num_layers}: must be at least 1")
    scale = num_layers * 1e-3
    columns = [_by_tokens(folder, operator) for operator in PER_TOKEN_OPERATORS]
    reach = min(map(len, columns))
    per_multiple_s = scale * np.sum([column[:reach] for column in columns], axis=0)
    decode_s = scale * _by_keys(folder, "attn_decode", _DECODE)
    prefill_s = scale * _by_keys(folder, "attn_prefill", _PREFILL)
    linear_s = np.concatenate([[0.0], np.repeat(per_multiple_s, TOKEN_MULTIPLE)])
    none = np.zeros(min(len(decode_s) + 1, len(linear_s)))
    cost = IterationCost(
        overhead_s=0.0,
        linear_s=linear_s,
        communication_s=np.zeros(len(linear_s)),
        lm_head_s=none,
        sampler_s=none,
        prefill_chunk_knots=np.ones(1),
        prefill_history_knots=np.zeros(1),
        prefill_s_per_pair=np.zeros((1, 1)),
        decode_kv_knots=np.zeros(1),
        decode_attention_s=none[:, None].copy(),
        mixed_decode_attention_s=none[:, None].copy(),
        mixed_s_per_pair=0.0,
    )
    validate_iteration_cost(cost)
    lookup = LookupAttention(np.pad(decode_s, ((1, 0), (0, 0))), np.pad(prefill_s, ((0, 0), (1, 0))))
    return cost, lookup


class _Axis(NamedTuple):
    """A key column of a table: the keys `first`, `first + step`, ..., or their squares."""

    name: str
    first: int
    step: int
    squared: bool = False

    def key(self, position: int) -> int:
        key = self.first + position * self.step
        return key * key if self.squared else key

    def positions(self, path: Path, keys: NDArray[Any]) -> NDArray[np.int64]:
        plain = np.rint(np.sqrt(keys)).astype(np.int64) if self.squared else keys
        legal = (plain >= self.first) & ((plain - self.first) % self.step == 0)
        if self.squared:
            legal &= plain * plain == keys
        squares = "the square of " if self.squared else ""
        _require(path, self.name, keys, legal, f"{squares}{self.first} or a multiple of {self.step} more")
        return (plain - self.first) // self.step


_Table = dict[str, NDArray[Any]]
_TOKENS = _Axis("num_tokens", TOKEN_MULTIPLE, TOKEN_MULTIPLE)
_DECODE = _Axis("batch_size", 1, 1), _Axis("kv_cache_size", 0, KV_MULTIPLE)
_PREFILL = _Axis("kv_cache_size", 0, KV_MULTIPLE), _Axis("prefill_chunk_size_squared", 1, 1, squared=True)


def _by_tokens(folder: Path, operator: str) -> Floats:
    """ms at TOKEN_MULTIPLE, 2 TOKEN_MULTIPLE, ... tokens; Vidur looks at no other row."""
    path, table = _read(folder, operator, (_TOKENS,))
    used = table[_TOKENS.name] % TOKEN_MULTIPLE == 0
    if not used.any():
        raise InputError(f"{path}: has no row for a multiple of {TOKEN_MULTIPLE} tokens")
    return _dense(path, {name: column[used] for name, column in table.items()}, (_TOKENS,))


def _by_keys(folder: Path, operator: str, axes: tuple[_Axis, ...]) -> Floats:
    return _dense(*_read(folder, operator, axes), axes)


def _read(folder: Path, operator: str, axes: tuple[_Axis, ...]) -> tuple[Path, _Table]:
    paths = [folder / f"table_{operator}.csv{ending}" for ending in ("", ".gz")]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise InputError(f"{folder}: no {paths[0].name} and no {paths[1].name}, one of them is needed")
    types = {**{axis.name: pa.int64() for axis in axes}, "ms": pa.float64()}
    options = pyarrow.csv.ConvertOptions(column_types=types, include_columns=list(types))
    try:
        read = pyarrow.csv.read_csv(path, convert_options=options)
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise InputError(f"{path}: cannot be read as columns {', '.join(types)}: {error}") from error
    table = {name: read[name].to_numpy() for name in types}
    if len(table["ms"]) == 0:
        raise InputError(f"{path}: has no rows")
    _require(path, "ms", table["ms"], np.isfinite(table["ms"]) & (table["ms"] >= 0), "finite, at least 0")
    return path, table


def _dense(path: Path, table: _Table, axes: tuple[_Axis, ...]) -> Floats:
    """`ms` as an array; every combination of keys up to the largest ones must be there once."""
    positions = tuple(axis.positions(path, table[axis.name]) for axis in axes)
    shape = tuple(int(each.max()) + 1 for each in positions)
    counts = np.zeros(shape, np.int64)
    np.add.at(counts, positions, 1)
    if (counts != 1).any():
        at = tuple(int(each[0]) for each in np.nonzero(counts != 1))
        where = ", ".join(f"{axis.name} = {axis.key(i)}" for axis, i in zip(axes, at, strict=True))
        raise InputError(f"{path}: {counts[at]} rows with {where}: must be 1")
    dense = np.empty(shape)
    dense[positions] = table["ms"]
    return dense


def _require(path: Path, name: str, values: NDArray[Any], legal: NDArray[np.bool_], allowed: str) -> None:
    if not legal.all():
        raise InputError(f"{path}: {name} = {values[int(np.argmin(legal))]}: must be {allowed}")
