"""Seconds of one operator from first principles: the roofline model (Williams et al., CACM 2009).

An operator takes `max(FLOPs / (peak * efficiency), bytes / (bandwidth * efficiency))` plus a launch time.
All methods take scalars or arrays, which broadcast, and return seconds of the same shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.schema import OPERATORS
from servegym.costmodels.operators.work import UNITS, Work, work
from servegym.costmodels.specs import DTYPE_BYTES, GpuSpec

Numbers = float | NDArray[Any]


@dataclass(frozen=True)
class Roofline:
    """Shares of the nominal rates that kernels reach, and launch times.

    One set for all GPUs, read off NVIDIA's kernel tables of vLLM on H100 SXM and A100 SXM
    (ai-dynamo/aiconfigurator, bf16) and rounded between the two devices, unless said otherwise below.
    They are a start, not a calibration.
    """

    gemm_compute: float = 0.8
    """Large GEMMs reach 0.79 (H100) and 0.84 (A100) of the peak."""
    gemm_memory: float = 0.85
    """GEMMs that stream their weights: fitted 0.875 (H100), 0.725 (A100)."""
    gemm_launch_s: float = 4e-6
    """Fitted with the two above: 4 us (H100), 7 us (A100)."""
    attention_compute: float = 0.525
    """Prefill: fitted 0.525 (H100, FlashAttention 3), 0.5 (A100, FlashAttention 2)."""
    attention_memory: float = 0.75
    """Decode: fitted 0.8 (H100), 0.65 (A100)."""
    attention_launch_s: float = 12e-6
    """The shortest calls take 12 us on both."""
    elementwise_memory: float = 0.5
    """Norm, rotary embedding and activation reach 0.3 to 0.6 (Vidur profiles, Agrawal et al., MLSys 2024)."""
    elementwise_launch_s: float = 2e-6
    """Additions and norms of one token take 1 to 5 us (same profiles)."""
    link: float = 0.6
    """All-reduce of vLLM in CUDA graphs: fitted 0.55 to 0.75 for 2, 4 and 8 GPUs."""
    all_reduce_launch_s: float = 5e-6
    """Fitted with the one above: 4 to 7 us."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name.endswith("_s"):
                if not 0 <= value < float("inf"):
                    raise InputError(f"roofline: {each.name} is {value}, must be at least 0 and finite")
            elif not 0 < value <= 1:
                raise InputError(f"roofline: {each.name} is {value}, must lie in (0, 1]")

    def gemm_seconds(self, gpu: GpuSpec, dtype: str, m: Numbers, n: Numbers, k: Numbers) -> Any:
        """`(m, k) @ (k, n)`: `2 m n k` FLOPs; both operands are read once and the result is written."""
        flops = 2.0 * m * n * k
        moved_bytes = DTYPE_BYTES[dtype] * (1.0 * m * k + 1.0 * k * n + 1.0 * m * n)
        return self.gemm_launch_s + np.maximum(
            flops / (gpu.peak(dtype) * self.gemm_compute),
            moved_bytes / (gpu.hbm_bytes_per_s * self.gemm_memory),
        )

    def prefill_attention_seconds(
        self,
        gpu: GpuSpec,
        dtype: str,
        heads: int,
        kv_heads: int,
        head_dim: int,
        chunk: Numbers,
        history: Numbers,
    ) -> Any:
        """Causal attention of one layer for `chunk` new tokens of one request after `history` cached ones.

        `4 * heads * head_dim` FLOPs (scores and values) for each of the
        `chunk * history + chunk (chunk + 1) / 2` pairs; queries, keys and values are read and the output is
        written once. Without the launch: one call serves the whole batch (`attention_launch_s`).
        """
        pairs = chunk * history + chunk * (chunk + 1) / 2
        return self._attention_seconds(gpu, dtype, heads, kv_heads, head_dim, pairs, chunk, history + chunk)

    def decode_attention_seconds(
        self, gpu: GpuSpec, dtype: str, heads: int, kv_heads: int, head_dim: int, num_decodes: Numbers,
        kv_tokens: Numbers,
    ) -> Any:  # fmt: skip
        """Attention of one layer for `num_decodes` requests, one new token each, `kv_tokens` cached in all.

        Same counting as in prefill: every new token meets its cached tokens and itself. Without the launch.
        """
        keys = kv_tokens + num_decodes
        return self._attention_seconds(gpu, dtype, heads, kv_heads, head_dim, keys, num_decodes, keys)

    def _attention_seconds(
        self, gpu: GpuSpec, dtype: str, heads: int, kv_heads: int, head_dim: int,
        pairs: Numbers, queries: Numbers, keys: Numbers,
    ) -> Any:  # fmt: skip
        flops = 4.0 * heads * head_dim * pairs
        moved_bytes = 2.0 * DTYPE_BYTES[dtype] * head_dim * (heads * queries + kv_heads * keys)
        return np.maximum(
            flops / (gpu.peak(dtype) * self.attention_compute),
            moved_bytes / (gpu.hbm_bytes_per_s * self.attention_memory),
        )

    def elementwise_seconds(self, gpu: GpuSpec, moved_bytes: Numbers) -> Any:
        """Norms, rotary embedding, activation, sampling: bound by the bytes read and written."""
        return self.elementwise_launch_s + moved_bytes / (gpu.hbm_bytes_per_s * self.elementwise_memory)

    def all_reduce_seconds(self, gpu: GpuSpec, num_gpus: int, message_bytes: Numbers) -> Any:
        """Each GPU sends `2 (num_gpus - 1) / num_gpus` of the message (ring or two-shot all-reduce)."""
        sent_bytes = 2 * (num_gpus - 1) / num_gpus * message_bytes
        return self.all_reduce_launch_s + sent_bytes / (gpu.nvlink_bytes_per_s * self.link)


@dataclass(frozen=True)
class Efficiency:
    """What a kernel reaches of the nominal rates. The defaults are the bare roofline."""

    compute: float = 1.0
    hbm: float = 1.0
    l2: float = 1.0
    link: float = 1.0
    exponential: float = 1.0
    tile_s: float = 0.0
    """Start and end of one tile on one SM."""
    launch_s: float = 3e-6
    """The shortest kernels in a CUDA graph take 2 to 4 us."""
    sharpness: float = float("inf")
    """Of the bend between compute and memory: the terms add up as a p-norm; infinite: the largest counts."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not (value > 0 or (each.name.endswith("_s") and value == 0)):
                raise InputError(f"efficiency: {each.name} is {value}, must be positive")

    def seconds(self, asked: Work, gpu: GpuSpec, peak_flops_per_s: float) -> NDArray[np.float64]:
        """Launch and tiles, then compute, HBM, L2, link and exponentials together."""
        terms = np.stack(
            [
                asked.spent_flops / (peak_flops_per_s * self.compute),
                asked.hbm_bytes / (gpu.hbm_bytes_per_s * self.hbm),
                asked.l2_bytes / (gpu.l2_bytes_per_s * self.l2),
                asked.link_bytes / (gpu.nvlink_bytes_per_s * self.link),
                asked.exponentials / (gpu.exponentials_per_s * self.exponential),
            ]
        )
        largest = terms.max(0)
        if np.isfinite(self.sharpness):
            shares = np.divide(terms, largest, out=np.zeros_like(terms), where=largest > 0)
            largest = largest * (shares**self.sharpness).sum(0) ** (1 / self.sharpness)
        return np.asarray(self.launch_s + self.tile_s * asked.tiles / gpu.num_sms + largest)


class RooflineModel:
    """Every operator of one GPU from first principles (a `KernelModel`): see `Work` and `Efficiency`.

    `efficiencies` by operator; an operator without one has the default, the bare roofline.
    """

    def __init__(
        self, gpu: GpuSpec, efficiencies: Mapping[str, Efficiency] | None = None, name: str = "roofline"
    ) -> None:
        self.gpu, self.name = gpu, name
        self.efficiencies = dict(efficiencies or {})

    def seconds(
        self,
        operator: str,
        shapes: Mapping[str, ArrayLike],
        *,
        dtype: str = "bf16",
        kv_dtype: str = "bf16",
        variant: str = "",
    ) -> NDArray[np.float64]:
        """See `KernelModel`. Variants are not told apart."""
        floats = broadcast_shapes(operator, shapes)
        asked = work(operator, floats, self.gpu, dtype, kv_dtype)
        efficiency = self.efficiencies.get(operator, Efficiency())
        return efficiency.seconds(asked, self.gpu, self.gpu.peak(UNITS[dtype]))


def broadcast_shapes(operator: str, shapes: Mapping[str, ArrayLike]) -> dict[str, NDArray[np.float64]]:
    """All dimensions of `operator` as float64 arrays of one shape. Raises InputError for wrong names."""
    names = OPERATORS.get(operator)
    if names is None:
        raise InputError(f"operator = {operator}: must be one of {', '.join(OPERATORS)}")
    if set(shapes) != set(names):
        raise InputError(f"{operator}: dimensions {', '.join(shapes)}, must be {', '.join(names)}")
    arrays = np.broadcast_arrays(*(np.asarray(shapes[name], np.float64) for name in names))
    return dict(zip(names, arrays, strict=True))
