"""Makes `IterationCost` tables: of a model on a GPU by the roofline, or of a textbook queue."""

import math

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.cost import IterationCost, validate_iteration_cost
from servegym.costmodels.iterations.knots import geometric_knots
from servegym.costmodels.operators.roofline import Roofline
from servegym.costmodels.specs import GpuSpec, ModelSpec

CPU_OVERHEAD_S = 0.5e-3
"""What the engine's CPU work adds to a step: brings Llama-2-7B at batch 1 on H100 to the 6.3 ms a token of
vLLM 0.11 (inference-sim ground-truth traces)."""


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
        mixed_decode_attention_s=np.outer(decodes, [0.0, per_kv_token_s]),
        mixed_s_per_pair=0.0,
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
    cpu_overhead_s: float = CPU_OVERHEAD_S,
) -> IterationCost:
    """The tables of `model` on `tensor_parallel` GPUs of kind `gpu`, from the roofline.

    A layer is four GEMMs (QKV, output, gate and up, down), one attention call for the whole batch, whose
    launch is counted in `linear_s`, four elementwise kernels (two norms with their residual additions,
    rotary embedding, activation) and, with tensor parallelism, two all-reduces (Shoeybi et al., Megatron-LM,
    2019). Sampled rows pass the LM head and the sampler, which reads the logits, widens them to float32 and
    reads them again, in about 8 kernels. The gathering of logits between GPUs is left out.

    `max_kv_tokens` is the longest history and the largest KV total the tables aim at (both are continued
    beyond). `cpu_overhead_s` is what the engine's CPU work adds to a step.
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
    chunk_knots = geometric_knots(max_num_batched_tokens, ratio=1.06)
    history_knots = np.concatenate([[0.0], geometric_knots(max_kv_tokens, ratio=1.15)])
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
        mixed_decode_attention_s=decode_s,
        mixed_s_per_pair=0.0,
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

    One block less, as vLLM sets one aside.

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
    blocks = math.floor(free_bytes * tensor_parallel / (model.kv_bytes_per_token * block_size)) - 1
    if blocks < 1:
        raise InputError(
            f"model {model.name} does not fit on {tensor_parallel} x {gpu.name}: {free_bytes / 1e9:.1f} GB "
            "a GPU would be left for the KV cache, must hold one block or more"
        )
    return blocks


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
