"""One decoder layer of the Llama family in plain torch, on one of `tp` GPUs, without the all-reduces."""

import torch
from torch.nn import functional

from servegym.costmodels.specs import ModelSpec
from servegym.experiments.profiling.operators import EPSILON, Maker, attend
from servegym.experiments.profiling.shapes import Shape
from servegym.experiments.profiling.timer import Inputs, Kernel


def layer_kernel(model: ModelSpec, shape: Shape, maker: Maker) -> Kernel:
    """A layer over the batch that `shape` describes (dimensions of prefill_layer or decode_layer)."""
    tp, batch, history, tokens = shape["tp"], shape["batch"], shape["history"], shape.get("tokens", 1)
    heads, kv_heads, ffn = model.num_heads // tp, model.num_kv_heads // tp, model.ffn_size // tp
    hidden, width = model.hidden_size, model.head_dim

    def weight(rows: int, columns: int) -> torch.Tensor:
        return maker.normal(rows, columns, scale=columns**-0.5)  # outputs as large as inputs

    def inputs() -> Inputs:
        cache = (batch, kv_heads, history + tokens, width)
        return (
            maker.normal(batch, tokens, hidden),
            weight((heads + 2 * kv_heads) * width, hidden),
            weight(hidden, heads * width),
            weight(2 * ffn, hidden),
            weight(hidden, ffn),
            maker.normal(hidden),
            maker.normal(hidden),
            maker.normal(tokens, width),
            maker.normal(tokens, width),
            maker.normal(*cache),
            maker.normal(*cache),
        )

    def layer(
        x: torch.Tensor, qkv: torch.Tensor, out: torch.Tensor, gate_up: torch.Tensor, down: torch.Tensor,
        norm: torch.Tensor, ffn_norm: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor,
        keys: torch.Tensor, values: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        projected = functional.linear(functional.rms_norm(x, (hidden,), norm, EPSILON), qkv)
        by_head = projected.view(batch, tokens, -1, width).transpose(1, 2)
        query, key, value = torch.split(by_head, [heads, kv_heads, kv_heads], dim=1)
        keys[:, :, history:] = _rotate(key, cosine, sine)
        values[:, :, history:] = value
        attended = attend(_rotate(query, cosine, sine), keys, values)
        x = x + functional.linear(attended.transpose(1, 2).reshape(batch, tokens, -1), out)
        widened = functional.linear(functional.rms_norm(x, (hidden,), ffn_norm, EPSILON), gate_up)
        gate, up = widened.chunk(2, dim=-1)
        return x + functional.linear(functional.silu(gate) * up, down)

    return Kernel(inputs, layer)


def _rotate(x: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of (batch, heads, tokens, width) by angles (tokens, width)."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-second, first), dim=-1) * sine
