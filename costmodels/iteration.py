"""`IterationCost`: the time of one engine iteration as flat tables, and its evaluation.

The formula stands in docs/simulator.md, "The time of an iteration". The tables may come from the roofline
(`compile_iteration_cost`) or from measurements; the evaluation does not care. Decode attention is piecewise
linear in the KV total, so many decode iterations in a row have a closed form.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from servegym.costmodels.errors import InputError
from servegym.costmodels.jit import kernel
from servegym.costmodels.roofline import Roofline
from servegym.costmodels.specs import GpuSpec, ModelSpec

Floats = NDArray[np.float64]


class IterationCost(NamedTuple):
    """Seconds of an iteration by its terms; T = max_num_batched_tokens, M = max_num_seqs.

    Arrays are float64 and C-contiguous, knots increase strictly and are in tokens.
    """

    overhead_s: float  # of every iteration
    linear_s: Floats  # (T + 1,) by tokens in the batch
    communication_s: Floats  # (T + 1,) by tokens in the batch
    lm_head_s: Floats  # (M + 1,) by tokens sampled
    sampler_s: Floats  # (M + 1,) by tokens sampled
    prefill_chunk_knots: Floats  # (C,) new tokens of a chunk
    prefill_history_knots: Floats  # (H,) tokens computed before it
    prefill_s_per_pair: Floats  # (C, H) for each pair of a new token and one it attends to
    decode_kv_knots: Floats  # (K,) KV tokens of all decodes
    decode_attention_s: Floats  # (M + 1, K) by decodes


def validate_iteration_cost(cost: IterationCost) -> None:
    """Raises `InputError` naming the field unless shapes fit, knots increase and every time is possible.

    Times must be finite and not negative (decode attention also where its first and last segment are
    continued), and every iteration must last longer than zero.
    """
    for name, value in cost._asdict().items():
        array = np.asarray(value)
        if array.dtype != np.float64 or not array.flags.c_contiguous or array.size == 0:
            raise InputError(
                f"IterationCost.{name} is {array.dtype}{array.shape}, must be C-contiguous float64"
            )
        bad = array[~(np.isfinite(array) & (array >= 0))]
        if bad.size:
            raise InputError(f"IterationCost.{name} holds {bad[0]}, must be finite and not negative")
    tokens, seqs = cost.linear_s.size, cost.lm_head_s.size
    chunks, histories, kvs = (
        knots.size for knots in (cost.prefill_chunk_knots, cost.prefill_history_knots, cost.decode_kv_knots)
    )
    shapes = {
        "overhead_s": (),
        "linear_s": (tokens,),
        "communication_s": (tokens,),
        "lm_head_s": (seqs,),
        "sampler_s": (seqs,),
        "prefill_chunk_knots": (chunks,),
        "prefill_history_knots": (histories,),
        "prefill_s_per_pair": (chunks, histories),
        "decode_kv_knots": (kvs,),
        "decode_attention_s": (seqs, kvs),
    }
    for name, shape in shapes.items():
        found = np.shape(getattr(cost, name))
        if found != shape:
            raise InputError(f"IterationCost.{name} has shape {found}, must be {shape}")
    if not 2 <= seqs <= tokens:
        raise InputError(
            f"IterationCost.lm_head_s covers {seqs - 1} requests, must be 1 or more and at most the "
            f"{tokens - 1} tokens of linear_s"
        )
    for name in ("prefill_chunk_knots", "prefill_history_knots", "decode_kv_knots"):
        if not np.all(np.diff(getattr(cost, name)) > 0):
            raise InputError(f"IterationCost.{name} must increase strictly")
    if kvs > 1:
        slopes = np.diff(cost.decode_attention_s[1:], axis=1) / np.diff(cost.decode_kv_knots)
        at_first = cost.decode_attention_s[1:, 0]
        at_zero = at_first - slopes[:, 0] * cost.decode_kv_knots[0]
        sinks = (at_zero < -1e-12 * at_first) | (slopes[:, -1] < 0)  # allows for rounding of `at_zero`
        if sinks.any():
            row = int(np.flatnonzero(sinks)[0]) + 1
            raise InputError(
                f"IterationCost.decode_attention_s row {row} becomes negative before its first or after its "
                "last knot, must stay at 0 or above"
            )
    sampled = np.minimum.accumulate(cost.lm_head_s + cost.sampler_s)
    least = cost.overhead_s + cost.linear_s + cost.communication_s
    least += sampled[np.minimum(np.arange(tokens), seqs - 1)]
    idle = np.flatnonzero(least[1:] <= 0)
    if idle.size:
        raise InputError(
            f"IterationCost.linear_s[{idle[0] + 1}] and its other terms are 0 s, an iteration must take time"
        )


def linear_iteration_cost(
    *,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    overhead_s: float,
    per_token_s: float = 0.0,
    per_kv_token_s: float = 0.0,
    per_prefill_pair_s: float = 0.0,
) -> IterationCost:
    """An iteration lasts `overhead_s + per_token_s * n + per_kv_token_s * S + per_prefill_pair_s * pairs`.

    With `n` tokens in the batch and `S` KV tokens of its decodes: for queues with a known solution.
    Raises `InputError` where an iteration would last no time or a number is out of range.
    """
    _require_limits(max_num_batched_tokens, max_num_seqs)
    decodes = np.minimum(np.arange(max_num_seqs + 1.0), 1.0)
    cost = IterationCost(
        overhead_s=float(overhead_s),
        linear_s=per_token_s * np.arange(max_num_batched_tokens + 1.0),
        communication_s=np.zeros(max_num_batched_tokens + 1),
        lm_head_s=np.zeros(max_num_seqs + 1),
        sampler_s=np.zeros(max_num_seqs + 1),
        prefill_chunk_knots=np.ones(1),
        prefill_history_knots=np.zeros(1),
        prefill_s_per_pair=np.full((1, 1), float(per_prefill_pair_s)),
        decode_kv_knots=np.array([0.0, 1.0]),
        decode_attention_s=np.outer(decodes, [0.0, per_kv_token_s]),
    )
    validate_iteration_cost(cost)
    return cost


def compile_iteration_cost(
    model: ModelSpec,
    gpu: GpuSpec,
    *,
    tensor_parallel: int = 1,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    max_kv_tokens: int,
    roofline: Roofline | None = None,
    cpu_overhead_s: float = 0.5e-3,
) -> IterationCost:
    """The tables of `model` on `tensor_parallel` GPUs of kind `gpu`, from the roofline.

    A layer is four GEMMs (QKV, output, gate and up, down), one attention call for the whole batch, whose
    launch is counted in `linear_s`, four elementwise kernels (two norms with their residual additions,
    rotary embedding, activation) and, with tensor parallelism, two all-reduces (Shoeybi et al., Megatron-LM,
    2019). Sampled rows pass the LM head and the sampler, which reads the logits, widens them to float32 and
    reads them again, in about 8 kernels. The gathering of logits between GPUs is left out.

    `max_kv_tokens` is the longest history and the largest KV total the tables aim at (both are continued
    beyond). `cpu_overhead_s` is what the engine's CPU work adds to a step; the default brings Llama-2-7B at
    batch 1 on H100 to the 6.3 ms a token of vLLM 0.11 (inference-sim ground-truth traces).
    Raises `InputError` for numbers out of range or heads that `tensor_parallel` does not divide.
    """
    _require_limits(max_num_batched_tokens, max_num_seqs)
    _require_at_least_one("max_kv_tokens", max_kv_tokens)
    _require_shards(model, tensor_parallel)
    roofline = roofline or Roofline()
    dtype, size, hidden = model.dtype, model.bytes_per_parameter, model.hidden_size
    heads, kv_heads = model.num_heads // tensor_parallel, model.num_kv_heads // tensor_parallel
    ffn, vocab = model.ffn_size // tensor_parallel, math.ceil(model.vocab_size / tensor_parallel)
    attention = (gpu, dtype, heads, kv_heads, model.head_dim)

    n = np.arange(max_num_batched_tokens + 1.0)
    add_and_norm_s = roofline.elementwise_seconds(gpu, 4 * size * hidden * n)
    layer_s = (
        roofline.gemm_seconds(gpu, dtype, n, (heads + 2 * kv_heads) * model.head_dim, hidden)
        + roofline.gemm_seconds(gpu, dtype, n, hidden, heads * model.head_dim)
        + roofline.gemm_seconds(gpu, dtype, n, 2 * ffn, hidden)
        + roofline.gemm_seconds(gpu, dtype, n, hidden, ffn)
        + roofline.attention_launch_s
        + 2 * add_and_norm_s
        + roofline.elementwise_seconds(gpu, 2 * size * (heads + kv_heads) * model.head_dim * n)  # rotary
        + roofline.elementwise_seconds(gpu, 3 * size * ffn * n)  # activation
    )
    embedding_s = roofline.elementwise_seconds(gpu, 2 * size * hidden * n)
    linear_s = embedding_s + model.num_layers * layer_s + add_and_norm_s
    linear_s[0] = 0.0
    communication_s = np.zeros_like(n)
    if tensor_parallel > 1:
        message_s = roofline.all_reduce_seconds(gpu, tensor_parallel, size * hidden * n[1:])
        communication_s[1:] = 2 * model.num_layers * message_s

    m = np.arange(max_num_seqs + 1.0)
    lm_head_s = roofline.gemm_seconds(gpu, dtype, m, vocab, hidden)
    logits_bytes = (size + 4 + 4) * model.vocab_size * m
    sampler_s = 7 * roofline.elementwise_launch_s + roofline.elementwise_seconds(gpu, logits_bytes)
    lm_head_s[0] = sampler_s[0] = 0.0

    # Close enough to meet the bend where compute takes over from memory within about 2 %, else 0.1 %.
    chunk_knots = _geometric_knots(max_num_batched_tokens, ratio=1.06)
    history_knots = np.concatenate([[0.0], _geometric_knots(max_kv_tokens, ratio=1.15)])
    chunk, history = chunk_knots[:, None], history_knots[None, :]
    pairs = chunk * history + chunk * (chunk + 1) / 2
    prefill_s = model.num_layers * roofline.prefill_attention_seconds(*attention, chunk, history)

    kv_knots = np.array([0.0, float(max_kv_tokens)])  # bytes bind throughout, so one line is exact
    decode_s = model.num_layers * roofline.decode_attention_seconds(*attention, m[:, None], kv_knots[None, :])
    decode_s[0] = 0.0
    cost = IterationCost(
        overhead_s=float(cpu_overhead_s),
        linear_s=linear_s,
        communication_s=communication_s,
        lm_head_s=lm_head_s,
        sampler_s=sampler_s,
        prefill_chunk_knots=chunk_knots,
        prefill_history_knots=history_knots,
        prefill_s_per_pair=prefill_s / pairs,
        decode_kv_knots=kv_knots,
        decode_attention_s=decode_s,
    )
    validate_iteration_cost(cost)
    return cost


def kv_capacity_blocks(
    model: ModelSpec,
    gpu: GpuSpec,
    *,
    tensor_parallel: int = 1,
    memory_fraction: float = 0.9,
    block_size: int = 16,
    reserved_bytes: int = 3 * 2**30,
) -> int:
    """KV blocks that fit beside the weights, as vLLM counts them (`gpu_memory_utilization`, default 0.9).

    `reserved_bytes` of each GPU hold activations, CUDA graphs and communication buffers.
    Raises `InputError` where not even one block fits.
    """
    _require_shards(model, tensor_parallel)
    _require_at_least_one("block_size", block_size)
    if not 0 < memory_fraction <= 1:
        raise InputError(f"memory_fraction is {memory_fraction}, must lie in (0, 1]")
    if reserved_bytes < 0:
        raise InputError(f"reserved_bytes is {reserved_bytes}, must be at least 0")
    free_bytes = gpu.hbm_bytes * memory_fraction - model.weight_bytes / tensor_parallel - reserved_bytes
    blocks = math.floor(free_bytes * tensor_parallel / (model.kv_bytes_per_token * block_size))
    if blocks < 1:
        raise InputError(
            f"model {model.name} does not fit on {tensor_parallel} x {gpu.name}: {free_bytes / 1e9:.1f} GB "
            "a GPU would be left for the KV cache, must hold one block or more"
        )
    return blocks


def _geometric_knots(last: int, ratio: float) -> Floats:
    """Whole numbers from 1 to `last`, at most about `ratio` (or 1) apart."""
    count = 1 + math.ceil(math.log(last) / math.log(ratio))
    return np.unique(np.rint(np.geomspace(1, last, max(count, 1))))


def _require_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{name} is {value}, must be at least 1")


def _require_limits(max_num_batched_tokens: int, max_num_seqs: int) -> None:
    _require_at_least_one("max_num_seqs", max_num_seqs)
    if max_num_batched_tokens < max_num_seqs:
        raise InputError(
            f"max_num_batched_tokens is {max_num_batched_tokens}, "
            f"must be at least max_num_seqs {max_num_seqs}"
        )


def _require_shards(model: ModelSpec, tensor_parallel: int) -> None:
    _require_at_least_one("tensor_parallel", tensor_parallel)
    for name in ("num_heads", "num_kv_heads", "ffn_size"):
        if getattr(model, name) % tensor_parallel:
            raise InputError(
                f"tensor_parallel is {tensor_parallel}, "
                f"must divide {name} {getattr(model, name)} of {model.name}"
            )


# --- Evaluation: compiled, called for every event of the simulator --------------------------------------


@kernel
def _segment(knots: Floats, x: float) -> int:
    """The last segment that starts at or below `x` (the first where none does); 0 for one knot."""
    low, high = 0, knots.size - 2
    while low < high:
        middle = (low + high + 1) // 2
        if knots[middle] <= x:
            low = middle
        else:
            high = middle - 1
    return low


@kernel
def _weight(knots: Floats, segment: int, x: float) -> float:
    """How far `x` lies into the segment, 0 to 1: constant beyond the ends; 0 for one knot."""
    if knots.size == 1:
        return 0.0
    share = (x - knots[segment]) / (knots[segment + 1] - knots[segment])
    return min(max(share, 0.0), 1.0)


@kernel
def _between(start: float, end: float, weight: float) -> float:
    """Linear interpolation that keeps `start` and `end` to the bit."""
    return (1.0 - weight) * start + weight * end


@kernel
def prefill_attention_seconds(cost: IterationCost, chunk: int, history: int) -> float:
    """Of one prefill chunk: its pairs times the seconds for a pair."""
    row = _segment(cost.prefill_chunk_knots, chunk)
    column = _segment(cost.prefill_history_knots, history)
    down = _weight(cost.prefill_chunk_knots, row, chunk)
    right = _weight(cost.prefill_history_knots, column, history)
    next_row = min(row + 1, cost.prefill_chunk_knots.size - 1)
    next_column = min(column + 1, cost.prefill_history_knots.size - 1)
    above = _between(cost.prefill_s_per_pair[row, column], cost.prefill_s_per_pair[row, next_column], right)
    below = _between(
        cost.prefill_s_per_pair[next_row, column], cost.prefill_s_per_pair[next_row, next_column], right
    )
    pairs = float(chunk) * history + 0.5 * chunk * (chunk + 1.0)
    return pairs * _between(above, below, down)


@kernel
def _decode_line(
    cost: IterationCost, num_decodes: int, segment: int, kv_tokens: float
) -> tuple[float, float]:
    """Decode attention at `kv_tokens` on the line of `segment`, and its slope in seconds a KV token."""
    start_s = cost.decode_attention_s[num_decodes, segment]
    if cost.decode_kv_knots.size == 1:
        return start_s, 0.0
    rise_s = cost.decode_attention_s[num_decodes, segment + 1] - start_s
    slope = rise_s / (cost.decode_kv_knots[segment + 1] - cost.decode_kv_knots[segment])
    return start_s + slope * (kv_tokens - cost.decode_kv_knots[segment]), slope


@kernel
def decode_attention_seconds(cost: IterationCost, num_decodes: int, kv_tokens: int) -> float:
    """Of all decodes of an iteration, which hold `kv_tokens` together."""
    if num_decodes == 0:
        return 0.0
    segment = 0
    if cost.decode_kv_knots.size > 2:
        segment = _segment(cost.decode_kv_knots, kv_tokens)
    return _decode_line(cost, num_decodes, segment, kv_tokens)[0]


@kernel
def step_seconds(cost: IterationCost, num_tokens: int, num_sampled: int) -> float:
    """An iteration without its attention: overhead, linear, communication, LM head, sampler."""
    return (
        cost.overhead_s
        + cost.linear_s[num_tokens]
        + cost.communication_s[num_tokens]
        + cost.lm_head_s[num_sampled]
        + cost.sampler_s[num_sampled]
    )


@kernel
def decode_seconds(cost: IterationCost, num_decodes: int, kv_tokens: int) -> float:
    """One iteration of `num_decodes >= 1` decodes and nothing else."""
    return step_seconds(cost, num_decodes, num_decodes) + decode_attention_seconds(
        cost, num_decodes, kv_tokens
    )


@kernel
def _line_seconds(first_s: float, growth_s: float, count: float) -> float:
    """`count` iterations of which the first lasts `first_s` and each next one `growth_s` more."""
    return count * (first_s + 0.5 * growth_s * (count - 1.0))


@kernel
def _line_count(first_s: float, growth_s: float, seconds: float) -> float:
    """The inverse of `_line_seconds`: the smaller root of a quadratic, in the form that does not cancel."""
    a = 0.5 * growth_s
    b = first_s - a
    root = math.sqrt(max(b * b + 4.0 * a * seconds, 0.0))
    return 2.0 * seconds / (b + root) if b > 0.0 else (root - b) / (2.0 * a)


@kernel
def _walk(
    cost: IterationCost, num_decodes: int, kv_tokens: int, num_iterations: int, seconds: float
) -> tuple[float, float, float, float, float]:
    """Decode iterations line by line of decode attention, up to the line on which `seconds` are exceeded.

    Returns the iterations before that line and their seconds, its first iteration and the growth from one
    to the next (s), and its number of iterations: 0 where all `num_iterations` fit.
    """
    # Floats throughout: whole numbers stay exact up to 2**53, and nothing overflows.
    left, done, elapsed_s, kv = float(num_iterations), 0.0, 0.0, float(kv_tokens)
    last = cost.decode_kv_knots.size - 2
    segment = 0
    if last > 0:
        segment = _segment(cost.decode_kv_knots, kv)
    step_s = step_seconds(cost, num_decodes, num_decodes)
    first_s = growth_s = count = 0.0
    while left > 0.0:
        attention_s, slope = _decode_line(cost, num_decodes, segment, kv)
        first_s, growth_s, count = step_s + attention_s, slope * num_decodes, left
        if segment < last:
            to_knot = math.ceil((cost.decode_kv_knots[segment + 1] - kv) / num_decodes)
            count = min(left, max(1.0, float(to_knot)))
        line_s = _line_seconds(first_s, growth_s, count)
        if elapsed_s + line_s > seconds:
            break
        elapsed_s += line_s
        done += count
        left -= count
        kv += count * num_decodes
        count = 0.0
        while segment < last and kv >= cost.decode_kv_knots[segment + 1]:
            segment += 1
    return done, elapsed_s, first_s, growth_s, count


@kernel
def decode_span_seconds(cost: IterationCost, num_decodes: int, kv_tokens: int, num_iterations: int) -> float:
    """`num_iterations` decode-only iterations in a row; each adds `num_decodes >= 1` KV tokens.

    The first one starts with `kv_tokens`. Closed form on each line of decode attention.
    """
    return _walk(cost, num_decodes, kv_tokens, num_iterations, math.inf)[1]


@kernel
def decode_iterations_within(
    cost: IterationCost, num_decodes: int, kv_tokens: int, max_iterations: int, seconds: float
) -> tuple[int, float]:
    """The largest `n <= max_iterations` whose `decode_span_seconds` is at most `seconds`, and that span.

    Exact with respect to `decode_span_seconds`; `(0, 0.0)` where not one iteration fits.
    """
    if max_iterations <= 0 or not seconds > 0.0:
        return 0, 0.0
    done, elapsed_s, first_s, growth_s, count = _walk(cost, num_decodes, kv_tokens, max_iterations, seconds)
    if count == 0.0:
        return max_iterations, elapsed_s
    # Between `fits` and `too_many` iterations of this line; the root of the quadratic is right to about one.
    fits, span_s, too_many = 0.0, elapsed_s, count
    n = min(max(math.floor(_line_count(first_s, growth_s, seconds - elapsed_s)), 1.0), count - 1.0)
    while too_many - fits > 1.0:
        trial_s = elapsed_s + _line_seconds(first_s, growth_s, n)
        if trial_s <= seconds:
            fits, span_s = n, trial_s
            n += 1.0
        else:
            too_many = n
            n -= 1.0
    return int(done + fits), span_s
