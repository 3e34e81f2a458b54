"""The operators in plain torch, with random inputs, as `Kernel`s for the timer."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from servegym.experiments.profiling.shapes import Shape
from servegym.experiments.profiling.timer import Kernel

EPSILON = 1e-5

INCLUDES = {
    "gemm": "one GEMM",
    "prefill_attention": "scaled_dot_product_attention, causal, contiguous KV; no KV write",
    "decode_attention": "scaled_dot_product_attention, contiguous KV; no KV write",
    "normalisation": "RMS norm, without a residual addition",
    "activation": "SiLU and multiplication as two eager kernels",
    "sampling": "float32 softmax and argmax",
    "prefill_layer": "a whole decoder layer in eager torch, KV write included; no all-reduce",
    "decode_layer": "a whole decoder layer in eager torch, KV write included; no all-reduce",
    "all_reduce": "one all-reduce of torch.distributed",
}
"""What the time of each operator includes; every input lies outside the caches."""


@dataclass(frozen=True)
class Maker:
    """Makes random tensors of one dtype on one device."""

    device: torch.device
    dtype: torch.dtype
    generator: torch.Generator

    def normal(self, *size: int, scale: float = 1.0) -> torch.Tensor:
        """Of this size, normally distributed with standard deviation `scale`."""
        return torch.empty(size, dtype=self.dtype, device=self.device).normal_(
            0.0, scale, generator=self.generator
        )


def operator_kernel(operator: str, shape: Shape, maker: Maker) -> Kernel:
    """What to call for one shape of an operator (not of a layer or an all-reduce)."""
    return _KERNELS[operator](shape, maker)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal attention of the last tokens of each sequence: (batch, heads, tokens, head_dim) all."""
    new, total = query.shape[2], key.shape[2]
    bias = causal_lower_right(new, total) if 1 < new < total else None
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=bias,
        is_causal=new == total > 1,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _gemm(shape: Shape, maker: Maker) -> Kernel:
    m, n, k = shape["m"], shape["n"], shape["k"]
    return Kernel(lambda: (maker.normal(m, k), maker.normal(n, k)), functional.linear)


def _prefill_attention(shape: Shape, maker: Maker) -> Kernel:
    return _attention(shape, shape["tokens"], maker)


def _decode_attention(shape: Shape, maker: Maker) -> Kernel:
    return _attention(shape, 1, maker)


def _attention(shape: Shape, tokens: int, maker: Maker) -> Kernel:
    batch, width, total = shape["batch"], shape["head_dim"], shape["history"] + tokens
    cache = (batch, shape["kv_heads"], total, width)
    return Kernel(
        lambda: (
            maker.normal(batch, shape["heads"], tokens, width),
            maker.normal(*cache),
            maker.normal(*cache),
        ),
        attend,
    )


def _normalisation(shape: Shape, maker: Maker) -> Kernel:
    tokens, width = shape["tokens"], shape["width"]
    return Kernel(
        lambda: (maker.normal(tokens, width), maker.normal(width)),
        lambda x, weight: functional.rms_norm(x, (width,), weight, EPSILON),
    )


def _activation(shape: Shape, maker: Maker) -> Kernel:
    tokens, width = shape["tokens"], shape["width"]
    return Kernel(
        lambda: (maker.normal(tokens, width), maker.normal(tokens, width)),
        lambda gate, up: functional.silu(gate) * up,
    )


def _sampling(shape: Shape, maker: Maker) -> Kernel:
    return Kernel(
        lambda: (maker.normal(shape["sequences"], shape["vocab"]),),
        lambda logits: torch.softmax(logits, dim=-1, dtype=torch.float32).argmax(dim=-1),
    )


_KERNELS: dict[str, Callable[[Shape, Maker], Kernel]] = {
    "gemm": _gemm,
    "prefill_attention": _prefill_attention,
    "decode_attention": _decode_attention,
    "normalisation": _normalisation,
    "activation": _activation,
    "sampling": _sampling,
}
