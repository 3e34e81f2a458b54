"""Composes the times of kernels into the time of an engine iteration: from any `KernelModel`."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import CPU_OVERHEAD_S
from servegym.costmodels.iterations.cost import Floats, IterationCost, validate_iteration_cost
from servegym.costmodels.iterations.knots import geometric_knots
from servegym.costmodels.operators.kernel_model import KernelModel
from servegym.costmodels.specs import ModelSpec

KERNEL_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "fp8": "fp8"}
"""Names of the timing schema, by dtype of a `ModelSpec`."""


@dataclass(frozen=True)
class Parallelism:
    """How a replica is spread over `tensor * pipeline` GPUs.

    expert: groups into which the tensor-parallel GPUs divide the experts; inside a group each expert is
    sharded (vLLM's expert parallelism is `expert = tensor`). sequence: norms are shared out over the
    tensor-parallel GPUs, and all-reduces become reduce-scatters and all-gathers (Korthikanti et al., 2022).
    """

    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    sequence: bool = False

    def check(self, model: ModelSpec) -> None:
        """Raises `InputError` where `model` cannot be spread so."""
        for name in ("tensor", "pipeline", "expert"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, must be at least 1")
        if self.tensor % self.expert:
            raise InputError(f"expert is {self.expert}, must divide tensor {self.tensor}")
        divided = {
            "num_heads": self.tensor,
            "num_kv_heads": min(self.tensor, model.num_kv_heads),
            "ffn_size": self.tensor // self.expert,
            "num_experts": self.expert,
            "num_layers": self.pipeline,
        }
        for name, parts in divided.items():
            if getattr(model, name) % parts:
                raise InputError(
                    f"{name} of {model.name} is {getattr(model, name)}, must be a multiple of {parts}"
                )


def compose_iteration_cost(
    model: ModelSpec,
    kernels: KernelModel,
    *,
    max_num_batched_tokens: int,
    max_num_seqs: int,
    max_kv_tokens: int,
    parallelism: Parallelism | None = None,
    weight_dtype: str | None = None,
    kv_dtype: str | None = None,
    cpu_overhead_s: float = CPU_OVERHEAD_S,
    decode_skew: float = 1.0,
) -> IterationCost:
    """The tables of `model` on the device of `kernels`.

    A layer is the GEMMs of QKV and output, attention, two norms, rotary embedding, and either gate and up,
    activation and down or the router's GEMM and the experts; with tensor parallelism two all-reduces.
    Sampled rows pass the LM head and the sampler. With pipeline parallelism an iteration passes its stages
    one after another, with a send between them: one batch is in flight.

    The engine makes one attention call for a batch: the launch, which is what the smallest call takes, is
    counted once, in `linear_s`. `weight_dtype` ("fp8", "fp8_block", "int4") and `kv_dtype` default to the
    model's dtype; weight-only int4 multiplies in bf16 (Frantar et al., MARLIN, 2024), LM head and router
    stay in 16 bit. `decode_skew` multiplies decode attention, whose kernels are timed with equal histories.
    Raises `InputError` for numbers out of range, and what `kernels` does not cover.
    """
    spread = parallelism or Parallelism()
    spread.check(model)
    if not 1 <= max_num_seqs <= max_num_batched_tokens or max_kv_tokens < 1:
        raise InputError(
            f"max_num_seqs is {max_num_seqs}, max_num_batched_tokens {max_num_batched_tokens}, max_kv_tokens "
            f"{max_kv_tokens}: must be at least 1, and max_num_seqs at most max_num_batched_tokens"
        )
    layer = Layer(model, kernels, spread, weight_dtype, kv_dtype)
    tokens, sampled = np.arange(1.0, max_num_batched_tokens + 1), np.arange(1.0, max_num_seqs + 1)
    hidden = model.hidden_size
    # A floor below every table of attention, so that what is left over never gets negative.
    launch_s = float(min(layer.prefill(np.ones(1), np.zeros(1))[0], layer.decode(np.ones(1), np.ones(1))[0]))
    linear_s = (
        kernels.seconds("embedding", {"tokens": tokens, "width": hidden})
        + model.num_layers * (layer.linear_seconds(tokens) + launch_s)
        + kernels.seconds("normalisation", {"tokens": tokens, "width": hidden})
    )
    vocab = math.ceil(model.vocab_size / spread.tensor)
    lm_head_s = kernels.seconds("gemm", {"m": sampled, "n": vocab, "k": hidden})
    sampler_s = kernels.seconds("sampling", {"sequences": sampled, "vocab": model.vocab_size})

    chunk_knots = geometric_knots(max_num_batched_tokens, ratio=1.06)
    history_knots = np.concatenate([[0.0], geometric_knots(max_kv_tokens, ratio=1.15)])
    chunk, history = np.meshgrid(chunk_knots, history_knots, indexing="ij")
    prefill_s = model.num_layers * np.maximum(layer.prefill(chunk, history) - launch_s, 0.0)

    kv_knots = geometric_knots(max_kv_tokens, ratio=1.3)
    kv_knots = kv_knots[kv_knots >= min(16, max_kv_tokens)]
    decodes, kv = np.meshgrid(sampled, kv_knots, indexing="ij")
    decode_s = model.num_layers * np.maximum(
        layer.decode(decodes, np.maximum(kv / decodes, 1.0)) - launch_s, 0
    )
    decode_s = decode_skew * np.maximum.accumulate(decode_s, axis=1)  # kernels' times are not monotone
    decode_s = _with_nothing(decode_s)
    kv_knots, decode_s = np.insert(kv_knots, 0, 0.0), np.insert(decode_s, 0, decode_s[:, 0], axis=1)
    cost = IterationCost(
        overhead_s=float(cpu_overhead_s),
        linear_s=_with_nothing(linear_s),
        communication_s=_with_nothing(layer.communication_seconds(tokens)),
        lm_head_s=_with_nothing(lm_head_s),
        sampler_s=_with_nothing(sampler_s),
        prefill_chunk_knots=chunk_knots,
        prefill_history_knots=history_knots,
        prefill_s_per_pair=prefill_s / (chunk * history + chunk * (chunk + 1) / 2),
        decode_kv_knots=kv_knots,
        decode_attention_s=decode_s,
        mixed_decode_attention_s=decode_s,
        mixed_s_per_pair=0.0,
    )
    validate_iteration_cost(cost)
    return cost


class Layer:
    """One transformer layer on one of the GPUs it is spread over; seconds."""

    def __init__(
        self,
        model: ModelSpec,
        kernels: KernelModel,
        spread: Parallelism,
        weight_dtype: str | None,
        kv_dtype: str | None,
    ) -> None:
        self.model, self.kernels, self.spread = model, kernels, spread
        self.dtype = weight_dtype or KERNEL_DTYPES[model.dtype]
        self.kv_dtype = kv_dtype or KERNEL_DTYPES[model.dtype]
        self.heads = {
            "heads": model.num_heads // spread.tensor,
            "kv_heads": max(model.num_kv_heads // spread.tensor, 1),
            "head_dim": model.head_dim,
        }

    def _gemm(self, m: Floats, n: int, k: int, dtype: str) -> Floats:
        return self.kernels.seconds("gemm", {"m": m, "n": n, "k": k}, dtype=dtype)

    def linear_seconds(self, tokens: Floats) -> Floats:
        """All that depends on the number of tokens alone."""
        model, spread, size = self.model, self.spread, self.model.head_dim
        heads, kv_heads, hidden = self.heads["heads"], self.heads["kv_heads"], model.hidden_size
        normed = np.ceil(tokens / spread.tensor) if spread.sequence else tokens
        return (
            self._gemm(tokens, (heads + 2 * kv_heads) * size, hidden, self.dtype)
            + self._gemm(tokens, hidden, heads * size, self.dtype)
            + 2 * self.kernels.seconds("normalisation", {"tokens": normed, "width": hidden})
            + self.kernels.seconds("rotary", {"tokens": tokens, "width": (heads + kv_heads) * size})
            + self._feed_forward(tokens)
        )

    def _feed_forward(self, tokens: Floats) -> Floats:
        model, spread = self.model, self.spread
        if model.num_experts == 1:
            ffn = model.ffn_size // spread.tensor
            return (
                self._gemm(tokens, 2 * ffn, model.hidden_size, self.dtype)
                + self.kernels.seconds("activation", {"tokens": tokens, "width": ffn})
                + self._gemm(tokens, model.hidden_size, ffn, self.dtype)
            )
        experts: dict[str, npt.ArrayLike] = {
            "tokens": tokens,
            "hidden": model.hidden_size,
            "inter": model.ffn_size,
            "topk": model.experts_per_token,
            "experts": model.num_experts,
            "tp": spread.tensor // spread.expert,
            "ep": spread.expert,
        }
        router_s = self._gemm(tokens, model.num_experts, model.hidden_size, "bf16")
        return router_s + self.kernels.seconds("moe", experts, dtype=self.dtype)

    def prefill(self, chunk: Floats, history: Floats, batch: npt.ArrayLike = 1) -> Floats:
        """Attention of `batch` chunks after their histories in one call, launch included."""
        shapes: dict[str, npt.ArrayLike] = {
            "batch": batch,
            "tokens": chunk,
            "history": history,
            "window": 0,
            **self.heads,
        }
        return self._attention("prefill_attention", shapes)

    def decode(self, decodes: Floats, history: Floats) -> Floats:
        """Attention of decodes of equal histories, launch included."""
        shapes: dict[str, npt.ArrayLike] = {"batch": decodes, "history": history, "window": 0, **self.heads}
        return self._attention("decode_attention", shapes)

    def _attention(self, operator: str, shapes: dict[str, npt.ArrayLike]) -> Floats:
        return self.kernels.seconds(operator, shapes, kv_dtype=self.kv_dtype)

    def communication_seconds(self, tokens: Floats) -> Floats:
        """Of all layers: between the GPUs of a stage, and from stage to stage. Activations have 16 bit."""
        spread, sent_bytes = self.spread, 2 * self.model.hidden_size * tokens
        seconds = np.zeros_like(tokens)
        if spread.tensor > 1:
            message: dict[str, npt.ArrayLike] = {"bytes": sent_bytes, "gpus": spread.tensor}
            names = ("reduce_scatter", "all_gather") if spread.sequence else ("all_reduce",)
            for name in names:
                seconds += 2 * self.model.num_layers * self.kernels.seconds(name, message)
        if spread.pipeline > 1:
            seconds += (spread.pipeline - 1) * self.kernels.seconds(
                "send_recv", {"bytes": sent_bytes, "gpus": 2}
            )
        return seconds


def _with_nothing(seconds: Floats) -> Floats:
    """The same with a first entry of 0, for no tokens or no requests."""
    return np.ascontiguousarray(np.insert(seconds, 0, 0.0, axis=0))
