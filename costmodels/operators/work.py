"""What an operator asks of a GPU: FLOPs, bytes from HBM, bytes from L2, bytes over links.

Counted from shapes alone. FLOPs are counted twice: as the operator needs them, and as the GPU spends them,
since work comes in tiles, each done by one streaming multiprocessor (SM) to its end (wave quantisation;
NVIDIA, "Matrix Multiplication Background User's Guide", section "Wave quantization").
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.costmodels.specs import GpuSpec

Floats = npt.NDArray[np.float64]
Shapes = Mapping[str, Floats]

UNITS: Mapping[str, str] = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "int4": "bfloat16",  # weight-only: widened before the multiplication
    "w4a16_mxfp4": "bfloat16",
}
"""The unit of the GPU that multiplies, by dtype of the timing schema."""

WEIGHT_BYTES: Mapping[str, float] = {
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "fp8_block": 1.0,
    "int4": 0.5 + 2 / 128,  # a 16-bit scale for each group of 128
    "w4a16_mxfp4": 0.5 + 1 / 32,  # an 8-bit scale for each group of 32 (OCP Microscaling Formats)
}
"""Bytes of one weight, scales included."""

GEMM_TILES = ((64, 64), (64, 128), (128, 64), (64, 256), (128, 128), (128, 256), (256, 128))
GEMM_SPLITS = (1, 2, 4, 8, 16)
"""Tiles of the result, and parts of k: the kernels that a GEMM library chooses from."""
ATTENTION_TILE = 128
"""Queries of one head that one SM works on, and keys it takes at a time (FlashAttention 2 and 3)."""


class Work(NamedTuple):
    """Of one call, on one GPU. All float64 of the same shape."""

    flops: Floats
    spent_flops: Floats
    """FLOPs in the time of which the busiest SM, all SMs taken together, is done; at least `flops`."""
    hbm_bytes: Floats
    """Read once and written once."""
    l2_bytes: Floats
    """Read by all tiles."""
    link_bytes: Floats
    """Sent by one GPU."""
    exponentials: Floats
    """Of the softmax, which special units compute (Shah et al., FlashAttention-3, 2024, section 3.1)."""
    tiles: Floats
    """Thread blocks; each SM does one after the other."""


def work(operator: str, shapes: Shapes, gpu: GpuSpec, dtype: str = "bf16", kv_dtype: str = "bf16") -> Work:
    """What `operator` (of kernels.schema.OPERATORS) asks of `gpu`; shapes are equally long arrays.

    Raises InputError for an operator or a dtype that nothing is known about.
    """
    if operator not in _COUNTS:
        raise InputError(f"operator = {operator}: the roofline knows {', '.join(_COUNTS)}")
    for value in (dtype, kv_dtype):
        if value not in WEIGHT_BYTES:
            raise InputError(f"dtype = {value}: must be one of {', '.join(WEIGHT_BYTES)}")
    return _COUNTS[operator](shapes, gpu, dtype, kv_dtype)


def routed_experts(shapes: Shapes) -> Floats:
    """Experts of one GPU that at least one token is routed to, on average, when routing is uniform."""
    missed = (1 - np.minimum(shapes["topk"] / shapes["experts"], 1)) ** shapes["tokens"]
    return np.asarray(shapes["experts"] / shapes["ep"] * (1 - missed))


def _gemm(shapes: Shapes, gpu: GpuSpec, dtype: str, kv_dtype: str) -> Work:
    m, n, k = shapes["m"], shapes["n"], shapes["k"]
    weight, activation = WEIGHT_BYTES[dtype], _activation_bytes(dtype)
    hbm_bytes = activation * m * k + weight * k * n + 2.0 * m * n
    peak = gpu.peak(UNITS[dtype])
    spent, l2_bytes, blocks, best_s = (np.full_like(m, np.inf) for _ in range(4))
    for rows, columns in GEMM_TILES:
        tiles = np.ceil(m / rows) * np.ceil(n / columns)
        read = tiles * k * (rows * activation + columns * weight)
        for split in GEMM_SPLITS:
            waves = np.ceil(tiles * split / gpu.num_sms)
            flops = waves * gpu.num_sms * 2.0 * rows * columns * np.ceil(k / split / 64) * 64
            moved = read + (0 if split == 1 else 8.0 * split * m * n)  # partial sums in float32
            seconds = flops / peak + moved / gpu.l2_bytes_per_s
            better = seconds < best_s
            best_s = np.where(better, seconds, best_s)
            spent, l2_bytes = np.where(better, flops, spent), np.where(better, moved, l2_bytes)
            blocks = np.where(better, tiles * split, blocks)
    return Work(2.0 * m * n * k, spent, hbm_bytes, l2_bytes, 0 * m, 0 * m, blocks)


def _prefill(shapes: Shapes, gpu: GpuSpec, dtype: str, kv_dtype: str) -> Work:
    """`4 head_dim` FLOPs (scores and values) for each head and pair of a query and a key it may see."""
    batch, tokens, history, heads, kv_heads, head_dim, window = (
        shapes[name] for name in ("batch", "tokens", "history", "heads", "kv_heads", "head_dim", "window")
    )
    size, kv_size = 2.0, WEIGHT_BYTES[kv_dtype]
    length = tokens + history
    window = np.where(window > 0, np.minimum(window, length), length)
    growing = np.clip(window - history, 0, tokens)  # queries that see everything before them
    pairs = growing * history + growing * (growing + 1) / 2 + (tokens - growing) * window
    keys = np.minimum(length, window + tokens - 1)
    per_pair = 4.0 * head_dim
    # Queries of all heads that share keys fill a tile. It takes the keys of all its queries, in whole steps:
    # on average half a tile more a query.
    tiles = kv_heads * np.ceil(tokens * heads / kv_heads / ATTENTION_TILE)
    rows = tiles * ATTENTION_TILE / heads
    tiled_pairs = np.maximum(rows * (pairs / tokens + ATTENTION_TILE / 2), pairs)
    longest = ATTENTION_TILE * (np.minimum(window + ATTENTION_TILE, length) + ATTENTION_TILE / 2)
    spent = np.maximum(batch * heads * tiled_pairs, longest * gpu.num_sms) * per_pair
    return Work(
        batch * heads * pairs * per_pair,
        spent,
        batch * head_dim * (2 * size * heads * tokens + 2 * kv_size * kv_heads * keys),
        batch * head_dim * heads * (2 * size * tokens + 2 * kv_size * tiled_pairs / ATTENTION_TILE),
        0 * batch,
        np.maximum(batch * heads * tiled_pairs, longest * gpu.num_sms),
        batch * tiles,
    )


def _decode(shapes: Shapes, gpu: GpuSpec, dtype: str, kv_dtype: str) -> Work:
    """As in prefill, with one query. All heads that share keys make up the rows of one tile; the keys are
    shared out between SMs where the sequences are too few (split KV).
    """
    batch, history, heads, kv_heads, head_dim, window = (
        shapes[name] for name in ("batch", "history", "heads", "kv_heads", "head_dim", "window")
    )
    keys = np.where(window > 0, np.minimum(window, history + 1), history + 1)
    rows = 64.0
    tiles = np.ceil(heads / kv_heads / rows) * rows * kv_heads
    moved = batch * head_dim * (4.0 * heads + 2 * WEIGHT_BYTES[kv_dtype] * kv_heads * keys)
    return Work(
        4.0 * batch * heads * keys * head_dim,
        4.0 * batch * tiles * keys * head_dim,
        moved,
        moved,
        0 * batch,
        batch * tiles * keys,
        batch * tiles / rows,
    )


def _mixed(shapes: Shapes, gpu: GpuSpec, dtype: str, kv_dtype: str) -> Work:
    common = {name: shapes[name] for name in ("heads", "kv_heads", "head_dim")}
    one, none = np.ones_like(shapes["tokens"]), np.zeros_like(shapes["tokens"])
    chunk = {"batch": one, "tokens": np.maximum(shapes["tokens"], 1), "history": shapes["history"]}
    prefill = _prefill({**chunk, "window": none, **common}, gpu, dtype, kv_dtype)
    some = shapes["tokens"] > 0
    decodes = {"batch": shapes["decodes"], "history": shapes["decode_history"], "window": none}
    decode = _decode({**decodes, **common}, gpu, dtype, kv_dtype)
    return Work(*(some * first + second for first, second in zip(prefill, decode, strict=True)))


def _moe(shapes: Shapes, gpu: GpuSpec, dtype: str, kv_dtype: str) -> Work:
    """Gate, up and down of every expert that some token is routed to, and `topk` copies of the tokens."""
    hidden, inter = shapes["hidden"], shapes["inter"] / shapes["tp"]
    rows = shapes["tokens"] * shapes["topk"] / shapes["ep"]
    experts = routed_experts(shapes)
    flops = 6.0 * rows * hidden * inter
    tile = np.where(rows / experts > 64, 128.0, 16.0)
    padded = np.maximum(rows, experts * np.ceil(rows / experts / tile) * tile)
    activations = 2.0 * rows * (2 * hidden + 3 * inter)
    weights = 3.0 * WEIGHT_BYTES[dtype] * experts * hidden * inter
    hbm_bytes = weights + activations
    l2_bytes = weights * np.ceil(rows / experts / 128) + activations * 4
    return Work(flops, 6.0 * padded * hidden * inter, hbm_bytes, l2_bytes, 0 * rows, 0 * rows, 0 * rows)


def _elementwise(passes: float) -> Callable[[Shapes, GpuSpec, str, str], Work]:
    """Reads and writes `passes` arrays of (tokens, width)."""

    def count(shapes: Shapes, gpu: GpuSpec, dtype: str, kv_dtype: str) -> Work:
        moved = passes * 2.0 * shapes["tokens"] * shapes["width"]
        return Work(0 * moved, 0 * moved, moved, moved, 0 * moved, 0 * moved, 0 * moved)

    return count


def _sampling(shapes: Shapes, gpu: GpuSpec, dtype: str, kv_dtype: str) -> Work:
    """Reads the logits, writes them as float32 and reads these."""
    moved = (2.0 + 4 + 4) * shapes["sequences"] * shapes["vocab"]
    return Work(0 * moved, 0 * moved, moved, moved, 0 * moved, 0 * moved, 0 * moved)


def _collective(share: Callable[[Floats], Floats]) -> Callable[[Shapes, GpuSpec, str, str], Work]:
    """Each GPU sends `share(gpus)` of the message (ring algorithms; NCCL tests, PERFORMANCE.md)."""

    def count(shapes: Shapes, gpu: GpuSpec, dtype: str, kv_dtype: str) -> Work:
        none = 0 * shapes["bytes"]
        return Work(none, none, none, none, shapes["bytes"] * share(shapes["gpus"]), none, none)

    return count


def _activation_bytes(dtype: str) -> float:
    return 1.0 if UNITS[dtype] == "fp8" else 2.0


_COUNTS: Mapping[str, Callable[[Shapes, GpuSpec, str, str], Work]] = {
    "gemm": _gemm,
    "prefill_attention": _prefill,
    "decode_attention": _decode,
    "mixed_attention": _mixed,
    "moe": _moe,
    "all_reduce": _collective(lambda gpus: 2 * (gpus - 1) / gpus),
    "all_gather": _collective(lambda gpus: (gpus - 1) / gpus),
    "reduce_scatter": _collective(lambda gpus: (gpus - 1) / gpus),
    "all_to_all": _collective(lambda gpus: (gpus - 1) / gpus),
    "send_recv": _collective(lambda gpus: 0 * gpus + 1),
    "normalisation": _elementwise(4),
    "activation": _elementwise(3),
    "rotary": _elementwise(2),
    "embedding": _elementwise(2),
    "sampling": _sampling,
}
