"""Moving KV entries: over a link to another instance, or over PCIe to the host and back."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.costmodels.specs import ModelSpec


@dataclass(frozen=True)
class Link:
    """A link with a fixed cost for each transfer: `latency_s + bytes / bytes_per_s`."""

    bytes_per_s: float
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.bytes_per_s < float("inf"):
            raise InputError(f"link: bytes_per_s is {self.bytes_per_s}, must be finite and above 0")
        if not 0 <= self.latency_s < float("inf"):
            raise InputError(f"link: latency_s is {self.latency_s}, must be at least 0 and finite")

    def seconds(self, num_bytes: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Seconds of transfers of `num_bytes` each, any shape; nothing to move takes no time."""
        moved = np.asarray(num_bytes, np.float64)
        if not (moved >= 0).all():
            raise InputError(f"link: {moved.min():g} bytes to move, must be at least 0")
        return np.where(moved > 0, self.latency_s + moved / self.bytes_per_s, 0.0)


NVLINK_A800 = Link(400 * 2.0**30)
"""Between instances on one node of A800 GPUs, as LoongServe's manager counts it: 400 GiB/s."""

INFINIBAND_SPLITWISE = Link(200e9)
"""Between machines: 200 GB/s, of splitwise-sim's configuration (Patel et al., ISCA 2024)."""

INFINIBAND_LOONGSERVE = Link(4 * 25e9 / 8, 6e-6)
"""Of a GPU, between LoongServe's nodes: four links of 200 Gb/s for eight GPUs, each with its share. The
latency is ours."""

PCIE_GEN4_X16 = Link(25e9, 10e-6)
"""A host link: of 31.5 GB/s after encoding (PCIe 4.0, 16 lanes), about 25 GB/s reach pinned memory; a copy
takes about 10 us to start."""

PCIE_GEN5_X16 = Link(50e9, 10e-6)
"""The same for PCIe 5.0: twice the rate."""


def kv_transfer_seconds(
    model: ModelSpec, link: Link, tokens: npt.ArrayLike, *, tensor_parallel: int = 1
) -> npt.NDArray[np.float64]:
    """To move the KV entries of `tokens` tokens, each GPU its share over a link of its own.

    `tokens * layers * 2 * kv_heads * head_dim * bytes / (bandwidth * tp)`, LoongServe's migration time, plus
    the latency of the link. Serves migration between instances as well as swapping out or in over PCIe.
    """
    if tensor_parallel < 1:
        raise InputError(f"tensor_parallel is {tensor_parallel}, must be at least 1")
    return link.seconds(np.asarray(tokens, np.float64) * model.kv_bytes_per_token / tensor_parallel)
