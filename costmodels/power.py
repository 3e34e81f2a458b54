"""Energy: of an iteration of a language model, and of a batch of a DNN."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servegym.costmodels.batch import LinearBatchLatency
from servegym.costmodels.errors import InputError
from servegym.costmodels.specs import GpuSpec, ModelSpec


@dataclass(frozen=True)
class PowerModel:
    """Power of a busy GPU as a share of its TDP: `idle + memory u_m + compute u_c`, at most 1.

    `u_m` is the share of the nominal HBM bandwidth in use, `u_c` that of the peak FLOP/s. The defaults are
    fitted (`fit`) to the mean power of decoding and the peak power of prefills of Llama-2-70B on a DGX A100
    with 2, 4 and 8 GPUs in Splitwise's table (Patel et al., ISCA 2024), saturated rows left out; the mean
    error is 4 % on these same rows. The idle term is that of a GPU at its working clocks with an engine on
    it, not of one at rest.
    """

    idle: float = 0.31
    memory: float = 0.69
    compute: float = 1.2

    def __post_init__(self) -> None:
        for name in ("idle", "memory", "compute"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise InputError(f"power: {name} is {value}, must be at least 0 and finite")

    def share(
        self, memory_utilisation: npt.ArrayLike, compute_utilisation: npt.ArrayLike
    ) -> npt.NDArray[np.float64]:
        """Power over TDP at these utilisations (0 to 1), which broadcast."""
        memory, compute = np.asarray(memory_utilisation), np.asarray(compute_utilisation)
        return np.minimum(self.idle + self.memory * memory + self.compute * compute, 1.0)

    @classmethod
    def fit(
        cls, memory_utilisation: npt.ArrayLike, compute_utilisation: npt.ArrayLike, share: npt.ArrayLike
    ) -> "PowerModel":
        """Least squares, no coefficient below 0; all (N,). Leave out rows at the power limit."""
        from scipy.optimize import nnls  # slow to import, and only fitting needs it

        memory, compute = np.asarray(memory_utilisation, float), np.asarray(compute_utilisation, float)
        (idle, by_memory, by_compute), _ = nnls(
            np.stack([np.ones_like(memory), memory, compute], axis=1), np.asarray(share, float)
        )
        return cls(float(idle), float(by_memory), float(by_compute))


def utilisation(
    model: ModelSpec,
    gpu: GpuSpec,
    seconds: npt.ArrayLike,
    num_tokens: npt.ArrayLike,
    kv_tokens: npt.ArrayLike,
    *,
    tensor_parallel: int = 1,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Shares of HBM bandwidth and of peak FLOP/s that an iteration uses on each of its GPUs.

    Of `num_tokens` new tokens, with `kv_tokens` read and written: the weights are read once, 2 FLOPs for
    each weight and token; attention's own FLOPs are left out. At most 1 each.
    """
    times = np.asarray(seconds, float)
    if not (times > 0).all():
        raise InputError(f"an iteration of {times.min():g} s, must take time")
    moved_bytes = model.weight_bytes + model.kv_bytes_per_token * np.asarray(kv_tokens, float)
    flops = 2.0 * model.parameter_count * np.asarray(num_tokens, float)
    gpu_seconds = times * tensor_parallel
    return (
        np.minimum(moved_bytes / (gpu.hbm_bytes_per_s * gpu_seconds), 1.0),
        np.minimum(flops / (gpu.peak(model.dtype) * gpu_seconds), 1.0),
    )


def iteration_joules(
    model: ModelSpec,
    gpu: GpuSpec,
    seconds: npt.ArrayLike,
    num_tokens: npt.ArrayLike,
    kv_tokens: npt.ArrayLike,
    *,
    tensor_parallel: int = 1,
    power: PowerModel | None = None,
) -> npt.NDArray[np.float64]:
    """Joules of one iteration on all its GPUs together; arguments as in `utilisation`, which broadcast."""
    used = utilisation(model, gpu, seconds, num_tokens, kv_tokens, tensor_parallel=tensor_parallel)
    share = (power or PowerModel()).share(*used)
    return np.asarray(share * gpu.tdp_w * tensor_parallel * np.asarray(seconds, float))


@dataclass(frozen=True)
class LinearBatchEnergy:
    """`zeta(b) = a b + c` joules of a batch: the energy of the SMDP (Xu et al., arXiv 2301.12865)."""

    per_request_j: float
    per_batch_j: float

    def __post_init__(self) -> None:
        for name in ("per_request_j", "per_batch_j"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise InputError(f"zeta(b): {name} is {value}, must be at least 0 and finite")

    def joules(self, batch: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Joules of batches of `batch` requests, any shape. InputError below 1 request."""
        sizes = np.asarray(batch, np.float64)
        if not (sizes >= 1).all():
            raise InputError(f"zeta(b): a batch has {sizes.min():g} requests, must have at least 1")
        return np.asarray(self.per_request_j * sizes + self.per_batch_j)


# Inoue, Queueing Analysis of GPU-Based Inference Servers with Dynamic Batching, arXiv 1912.06322: latency as
# printed there, energy by least squares on its table.
RESNET50_V100 = (LinearBatchLatency(0.1438e-3, 1.8874e-3), LinearBatchEnergy(44.19e-3, 155.0e-3))
"""ResNet-50 on a V100: l(b) and zeta(b)."""
RESNET50_INT8_P4 = (LinearBatchLatency(0.5833e-3, 1.4284e-3), LinearBatchEnergy(36.63e-3, 51.44e-3))
"""ResNet-50 in INT8 on a Tesla P4: l(b) and zeta(b)."""
