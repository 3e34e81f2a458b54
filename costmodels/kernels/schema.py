"""The one schema of kernel timings.

A `KernelTimings` holds N timings of one operator on one device under one software, in one data type. A
source with several of these gives several.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError

OPERATORS: dict[str, tuple[str, ...]] = {
    # y[m, n] = x[m, k] W[n, k]^T
    "gemm": ("m", "n", "k"),
    # `batch` sequences, each with `tokens` new tokens after `history` computed ones; causal
    "prefill_attention": ("batch", "tokens", "history", "heads", "kv_heads", "head_dim", "window"),
    # `batch` sequences, each with one new token after `history` KV tokens (attends to history + 1)
    "decode_attention": ("batch", "history", "heads", "kv_heads", "head_dim", "window"),
    # one call for one prefill chunk and `decodes` decodes of equal history
    "mixed_attention": ("tokens", "history", "decodes", "decode_history", "heads", "kv_heads", "head_dim"),
    # gate, up and down of all experts with routing; per GPU of the tp x ep group
    "moe": ("tokens", "hidden", "inter", "topk", "experts", "tp", "ep"),
    "all_reduce": ("bytes", "gpus"),
    "all_gather": ("bytes", "gpus"),
    "reduce_scatter": ("bytes", "gpus"),
    "all_to_all": ("bytes", "gpus"),
    "send_recv": ("bytes", "gpus"),
    # RMS norm over `width`, with the residual addition where the software fuses it
    "normalisation": ("tokens", "width"),
    # SiLU(gate) * up, `width` of the result
    "activation": ("tokens", "width"),
    "rotary": ("tokens", "width"),
    "embedding": ("tokens", "width"),
    # from logits to token ids
    "sampling": ("sequences", "vocab"),
    # a whole decoder layer on one of `tp` GPUs, without all-reduces; `variant` names the model
    "prefill_layer": ("batch", "tokens", "history", "tp"),
    "decode_layer": ("batch", "history", "tp"),
    # CPU time of the engine per step
    "cpu_overhead": ("sequences", "gpus"),
}
"""Every operator and the names of its dimensions, per GPU. `window` 0 means full attention."""


@dataclass(frozen=True, eq=False)
class KernelTimings:
    """N timings. Raises InputError naming the row for a time that is not finite and above 0.

    shapes: int64 (N,) per dimension of the operator; seconds: float64 (N,).
    device: name of a preset in specs.py where there is one, else the source's own. software: engine and
    version. dtype, kv_dtype: "bf16", "fp8", "fp8_block", "int4"... variant: what else sets kernels apart
    (routing distribution of experts, collective backend). includes: what the time includes, in words.
    source: the file; rows: int64 (N,), line or row number in it.
    """

    operator: str
    shapes: Mapping[str, npt.NDArray[np.int64]]
    seconds: npt.NDArray[np.float64]
    device: str
    software: str
    dtype: str = "bf16"
    kv_dtype: str = "bf16"
    variant: str = ""
    includes: str = ""
    source: str = ""
    rows: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if self.operator not in OPERATORS:
            raise InputError(f"operator = {self.operator}: must be one of {', '.join(OPERATORS)}")
        names = OPERATORS[self.operator]
        if set(self.shapes) != set(names):
            raise InputError(
                f"{self.source or self.operator}: dimensions {', '.join(self.shapes)}, "
                f"must be {', '.join(names)}"
            )
        legal = np.isfinite(self.seconds) & (self.seconds > 0)
        if not legal.all():
            i = int(np.argmin(legal))
            row = f", row {self.rows[i]}" if len(self.rows) else f", timing {i}"
            raise InputError(
                f"{self.source or self.operator}{row}: {self.operator} takes {self.seconds[i]} s, "
                "must be finite and above 0"
            )

    def __len__(self) -> int:
        return len(self.seconds)

    def take(self, which: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> "KernelTimings":
        """The timings at these indices or where a mask is True."""
        return KernelTimings(
            self.operator,
            {name: values[which] for name, values in self.shapes.items()},
            self.seconds[which],
            self.device,
            self.software,
            self.dtype,
            self.kv_dtype,
            self.variant,
            self.includes,
            self.source,
            self.rows[which] if len(self.rows) else self.rows,
        )
