"""The time of a batch by the tables of Vidur's reference runs, looked up as Vidur does."""

import csv
import gzip
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TOKEN_STEP = 8  # tokens of a batch are rounded up to a multiple
KV_STEP = 64  # KV lengths are rounded up to a multiple
PER_TOKEN = (
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


@dataclass(frozen=True)
class LookupCost:
    """Seconds of a whole pass over the model: by tokens, and of attention by the keys of the tables."""

    linear_s: dict[int, float]
    decode_s: dict[tuple[int, int], float]  # (decodes, KV tokens of one)
    prefill_s: dict[tuple[int, int], float]  # (KV tokens before, square of the chunk)

    def iteration_s(self, chunks: Sequence[tuple[int, int]], num_decodes: int, kv_tokens: int) -> float:
        """Seconds of a batch; `kv_tokens` are the decodes' computed tokens, to which each adds its own."""
        tokens = sum(chunk for chunk, _ in chunks) + num_decodes
        seconds = self.linear_s[_round_up(tokens, TOKEN_STEP)]
        if num_decodes:
            mean = (kv_tokens + num_decodes) // num_decodes
            seconds += self.decode_s[num_decodes, _round_up(mean, KV_STEP)]
        if chunks:
            history = sum(_round_up(before, KV_STEP) for _, before in chunks)
            side = round(math.sqrt(sum(chunk * chunk for chunk, _ in chunks)))
            seconds += self.prefill_s[history, side * side]
        return seconds


def read_lookup_cost(folder: Path, layers: int) -> LookupCost:
    """Reads `table_*.csv[.gz]`: milliseconds of one layer."""
    per_token = [_table(folder, name) for name in PER_TOKEN]
    linear_s = {key[0]: sum(table[key] for table in per_token) * layers / 1000 for key in per_token[0]}
    decode, prefill = _table(folder, "attn_decode"), _table(folder, "attn_prefill")
    return LookupCost(
        linear_s,
        {(decodes, kv): ms * layers / 1000 for (decodes, kv), ms in decode.items()},
        {(history, square): ms * layers / 1000 for (history, square), ms in prefill.items()},
    )


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, or of the same with `.gz` behind its name."""
    packed = path.with_name(path.name + ".gz")
    with gzip.open(packed, "rt") if packed.exists() else path.open() as lines:
        return list(csv.DictReader(lines))


def _table(folder: Path, name: str) -> dict[tuple[int, ...], float]:
    table = {}
    for row in read_csv(folder / f"table_{name}.csv"):
        *key, ms = row.values()  # the last column
        table[tuple(map(int, key))] = float(ms)
    return table


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
