"""What no kernel can beat: timings faster than the peak of the GPU or its L2 cache allow are wrong."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.schema import KernelTimings
from servegym.costmodels.operators.work import UNITS, work
from servegym.costmodels.specs import GpuSpec

SLACK = 0.05
"""Clocks and sizes are nominal: a time may be this share below the limit."""

LIMITED = (
    "gemm", "prefill_attention", "decode_attention", "mixed_attention", "normalisation", "activation",
    "rotary", "embedding", "sampling",
)  # fmt: skip
"""Operators whose work follows from their shapes: not that of experts, which hangs on the routing, nor what
links between GPUs and the CPU do."""


def least_seconds(timings: KernelTimings, gpu: GpuSpec) -> npt.NDArray[np.float64]:
    """The L2 roofline, (N,): FLOPs at the peak, or operands and result once at the bandwidth of L2.

    L2 rather than HBM, as a repeated measurement may find its operands in the cache. 0 where nothing is
    known: an operator that is not in `LIMITED`, a data type without a known unit.
    """
    unit = UNITS.get(timings.dtype, "")
    if timings.operator not in LIMITED or unit not in gpu.peak_flops_per_s or timings.kv_dtype not in UNITS:
        return np.zeros(len(timings))
    shapes = {name: values.astype(np.float64) for name, values in timings.shapes.items()}
    asked = work(timings.operator, shapes, gpu, timings.dtype, timings.kv_dtype)
    return np.maximum(asked.flops / gpu.peak(unit), asked.hbm_bytes / gpu.l2_bytes_per_s)


def impossible(timings: KernelTimings, gpu: GpuSpec) -> npt.NDArray[np.bool_]:
    """Which timings, (N,), are faster than the L2 roofline by more than `SLACK`."""
    return timings.seconds < (1 - SLACK) * least_seconds(timings, gpu)


def refuse_impossible(timings: Iterable[KernelTimings], gpu: GpuSpec) -> None:
    """InputError that names the first row which is faster than the L2 roofline by more than `SLACK`."""
    for each in timings:
        wrong = impossible(each, gpu)
        if wrong.any():
            i = int(np.argmax(wrong))
            row = f", row {each.rows[i]}" if len(each.rows) else f", timing {i}"
            shape = ", ".join(f"{name} {values[i]}" for name, values in each.shapes.items())
            raise InputError(
                f"{each.source or each.operator}{row}: {each.operator} ({shape}) takes "
                f"{each.seconds[i]:.3g} s, physically impossible on {gpu.name}, whose peak and L2 allow "
                f"{least_seconds(each, gpu)[i]:.3g} s at the least; {wrong.sum()} of {len(each)} rows are"
            )
