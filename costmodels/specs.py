"""What a GPU offers and what a dense transformer asks for: `GpuSpec`, `ModelSpec`, and presets by name.

Numbers are nominal (data sheets, model configurations). What a kernel reaches of them is the business of
`servegym.costmodels.operators.roofline`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from servegym.costmodels.errors import InputError

DTYPE_BYTES: Mapping[str, int] = MappingProxyType({"bfloat16": 2, "float16": 2, "fp8": 1})
"""Bytes of one number, by dtype."""


@dataclass(frozen=True)
class GpuSpec:
    """One GPU, as its data sheet has it."""

    name: str
    peak_flops_per_s: Mapping[str, float] = field(hash=False)
    """Dense matrix multiplication (no sparsity) by dtype, FLOP/s."""
    hbm_bytes: int
    hbm_bytes_per_s: float
    l2_bytes: int
    l2_bytes_per_s: float
    nvlink_bytes_per_s: float
    """To all other GPUs of the node together, in one direction."""
    tdp_w: float
    num_sms: int
    """Streaming multiprocessors."""
    clock_hz: float
    """Boost clock."""

    @property
    def exponentials_per_s(self) -> float:
        """16 a clock and SM (CUDA C++ Programming Guide, "Throughput of Native Arithmetic Instructions")."""
        return 16 * self.num_sms * self.clock_hz

    def peak(self, dtype: str) -> float:
        """FLOP/s of `dtype`. Raises `InputError` where this GPU has no such unit."""
        if dtype not in self.peak_flops_per_s:
            raise InputError(
                f"GPU {self.name} has no dtype {dtype!r}: it has {', '.join(self.peak_flops_per_s)}"
            )
        return self.peak_flops_per_s[dtype]


@dataclass(frozen=True)
class ModelSpec:
    """A decoder of the Llama family: grouped-query attention, gated feed-forwards, untied LM head.

    Weights, activations and the KV cache all have `dtype`.
    """

    name: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    ffn_size: int
    """Width of the gate and of the up projection, each."""
    vocab_size: int
    dtype: str = "bfloat16"
    num_experts: int = 1
    """Feed-forwards of a layer, each of width `ffn_size`; a router picks some of several for a token."""
    experts_per_token: int = 1

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, int) and value < 1:
                raise InputError(f"model {self.name}: {each.name} is {value}, must be at least 1")
        if self.num_heads % self.num_kv_heads:
            raise InputError(
                f"model {self.name}: num_kv_heads is {self.num_kv_heads}, "
                f"must divide num_heads {self.num_heads}"
            )
        if self.experts_per_token > self.num_experts:
            raise InputError(
                f"model {self.name}: experts_per_token is {self.experts_per_token}, "
                f"must be at most num_experts {self.num_experts}"
            )
        if self.dtype not in DTYPE_BYTES:
            raise InputError(
                f"model {self.name}: unknown dtype {self.dtype!r}, known: {', '.join(DTYPE_BYTES)}"
            )

    @property
    def bytes_per_parameter(self) -> int:
        return DTYPE_BYTES[self.dtype]

    @property
    def attention_parameters(self) -> int:
        """Of one layer: the Q, K, V and output projections."""
        return self.hidden_size * self.head_dim * 2 * (self.num_heads + self.num_kv_heads)

    @property
    def ffn_parameters(self) -> int:
        """Of one layer: the gate, up and down projections of all experts, and the router."""
        router = self.hidden_size * self.num_experts if self.num_experts > 1 else 0
        return 3 * self.hidden_size * self.ffn_size * self.num_experts + router

    @property
    def parameter_count(self) -> int:
        """All weights: two norms a layer and one at the end, embedding and LM head included."""
        layer = self.attention_parameters + self.ffn_parameters + 2 * self.hidden_size
        return self.num_layers * layer + self.hidden_size + 2 * self.vocab_size * self.hidden_size

    @property
    def weight_bytes(self) -> int:
        return self.parameter_count * self.bytes_per_parameter

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.bytes_per_parameter


GPUS: Mapping[str, GpuSpec] = MappingProxyType(
    {
        # NVIDIA H100 data sheet, column SXM (half of the figures with sparsity; 900 GB/s both directions).
        # NVIDIA states no L2 bandwidth: the A100's width at the boost clock of 1.755 GHz is assumed.
        "h100_sxm": GpuSpec(
            name="h100_sxm",
            peak_flops_per_s=MappingProxyType({"bfloat16": 989.5e12, "float16": 989.5e12, "fp8": 1979e12}),
            hbm_bytes=80 * 2**30,
            hbm_bytes_per_s=3.35e12,
            l2_bytes=50 * 2**20,
            l2_bytes_per_s=5120 * 1.755e9,
            nvlink_bytes_per_s=450e9,
            tdp_w=700.0,
            num_sms=132,
            clock_hz=1.755e9,
        ),
        # NVIDIA A100 80GB data sheet, column SXM; L2: A100 architecture white paper, 5120 bytes a clock
        # (1.41 GHz boost).
        "a100_sxm": GpuSpec(
            name="a100_sxm",
            peak_flops_per_s=MappingProxyType({"bfloat16": 312e12, "float16": 312e12}),
            hbm_bytes=80 * 2**30,
            hbm_bytes_per_s=2.039e12,
            l2_bytes=40 * 2**20,
            l2_bytes_per_s=5120 * 1.41e9,
            nvlink_bytes_per_s=300e9,
            tdp_w=400.0,
            num_sms=108,
            clock_hz=1.41e9,
        ),
        # NVIDIA V100 data sheet, column SXM2, 32 GB; NVLink of 300 GB/s, both directions together. NVIDIA
        # states no L2 bandwidth: 2048 bytes a clock (1.53 GHz boost) are assumed.
        "v100_sxm": GpuSpec(
            name="v100_sxm",
            peak_flops_per_s=MappingProxyType({"float16": 125e12}),
            hbm_bytes=32 * 2**30,
            hbm_bytes_per_s=0.9e12,
            l2_bytes=6 * 2**20,
            l2_bytes_per_s=2048 * 1.53e9,
            nvlink_bytes_per_s=150e9,
            tdp_w=300.0,
            num_sms=80,
            clock_hz=1.53e9,
        ),
        # An A100 for export: NVLink of 400 instead of 600 GB/s, both directions together.
        "a800_sxm": GpuSpec(
            name="a800_sxm",
            peak_flops_per_s=MappingProxyType({"bfloat16": 312e12, "float16": 312e12}),
            hbm_bytes=80 * 2**30,
            hbm_bytes_per_s=2.039e12,
            l2_bytes=40 * 2**20,
            l2_bytes_per_s=5120 * 1.41e9,
            nvlink_bytes_per_s=200e9,
            tdp_w=400.0,
            num_sms=108,
            clock_hz=1.41e9,
        ),
        # NVIDIA RTX PRO 6000 Blackwell Server Edition data sheet (fp8 with fp32 accumulation; half of the
        # figures with sparsity) and the RTX Blackwell PRO architecture white paper (188 SMs, 128 MB L2).
        # No NVLink: PCIe 5.0 x16. L2: 64 bytes a clock and SM at the boost clock of 2.6 GHz are assumed.
        "rtx_pro_6000": GpuSpec(
            name="rtx_pro_6000",
            peak_flops_per_s=MappingProxyType({"bfloat16": 503.8e12, "float16": 503.8e12, "fp8": 1007.6e12}),
            hbm_bytes=96 * 2**30,
            hbm_bytes_per_s=1.597e12,
            l2_bytes=128 * 2**20,
            l2_bytes_per_s=188 * 64 * 2.6e9,
            nvlink_bytes_per_s=64e9,
            tdp_w=600.0,
            num_sms=188,
            clock_hz=2.6e9,
        ),
    }
)
"""GPUs by name."""

MODELS: Mapping[str, ModelSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (  # config.json of each model as published by its makers
            ModelSpec("llama_3_1_8b", 32, 4096, 32, 8, 128, 14336, 128256),
            ModelSpec("llama_2_7b", 32, 4096, 32, 32, 128, 11008, 32000),
            ModelSpec("llama_3_1_70b", 80, 8192, 64, 8, 128, 28672, 128256),
            ModelSpec("mistral_7b", 32, 4096, 32, 8, 128, 14336, 32000),
            ModelSpec("yi_34b", 60, 7168, 56, 8, 128, 20480, 64000),
            ModelSpec("mixtral_8x7b", 32, 4096, 32, 8, 128, 14336, 32000, "bfloat16", 8, 2),
            ModelSpec("qwen3_30b_a3b", 48, 2048, 32, 4, 128, 768, 151936, "bfloat16", 128, 8),
            # LWM-Text-1M (Hao Liu et al., 2024): Llama-2-7B trained on to 1M tokens.
            ModelSpec("lwm_7b", 32, 4096, 32, 32, 128, 11008, 32000, "float16"),
            # Llama-2-7B as published: GPUs before the A100 have no bfloat16.
            ModelSpec("llama_2_7b_fp16", 32, 4096, 32, 32, 128, 11008, 32000, "float16"),
        )
    }
)
"""Models by name."""


def gpu_spec(name: str) -> GpuSpec:
    """The preset `name`. Raises `InputError` that lists the known ones."""
    if name not in GPUS:
        raise InputError(f"unknown GPU {name!r}, known: {', '.join(GPUS)}")
    return GPUS[name]


def model_spec(name: str) -> ModelSpec:
    """The preset `name`. Raises `InputError` that lists the known ones."""
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}, known: {', '.join(MODELS)}")
    return MODELS[name]
