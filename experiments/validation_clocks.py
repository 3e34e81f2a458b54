"""The clocks that `servegym validate e2e` and `peers` compare: iteration tables by where they come from."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from servegym.costmodels.calibrated import calibrated_roofline
from servegym.costmodels.errors import InputError
from servegym.costmodels.kernel_model import KernelModel
from servegym.costmodels.kernels.aiconfigurator import read
from servegym.costmodels.measured import MeasuredModel, join_variants
from servegym.costmodels.specs import GpuSpec
from servegym.envs.workloads import find_data

CLOCKS = ("roofline", "calibrated", "measured")
DATA = "kernels/aiconfigurator"
_OPERATORS = ("gemm", "prefill_attention", "decode_attention", "all_reduce")
_EAGER = "vLLM_custom_eager"
"""All-reduce outside CUDA graphs: vLLM decodes in graphs, so the table with graphs is taken."""


class MeasuredKernels:
    """Measured tables of GEMMs, attention and all-reduce, outside them the efficiency at their edge over
    the roofline; the calibrated roofline for the rest. A `KernelModel`.
    """

    name = "measured"

    def __init__(self, gpu: GpuSpec, data: str | None = None) -> None:
        folder = data if data is not None else find_data(DATA)
        if folder is None:
            raise InputError(f"clock measured: {DATA} is not there: give data=FOLDER, or set SERVEGYM_DATA")
        timings = join_variants(read(folder, gpu.name, _OPERATORS, framework="vllm"))
        self._tables = MeasuredModel(
            [each for each in timings if each.variant != _EAGER], gpu, extrapolate="roofline"
        )
        self._calibrated = calibrated_roofline(gpu)

    def seconds(
        self,
        operator: str,
        shapes: Mapping[str, npt.ArrayLike],
        *,
        dtype: str = "bf16",
        kv_dtype: str = "bf16",
        variant: str = "",
    ) -> npt.NDArray[np.float64]:
        """See `KernelModel`."""
        model = self._tables if operator in _OPERATORS else self._calibrated
        return model.seconds(operator, shapes, dtype=dtype, kv_dtype=kv_dtype, variant=variant)


def kernels_of(clock: str, gpu: GpuSpec, data: str | None = None) -> KernelModel | None:
    """The kernel times of a clock; None for "roofline", which `compile_iteration_cost` does without.

    `data`: folder of tables in aiconfigurator's layout, for "measured". Raises InputError for a name that is
    none of CLOCKS, and where the tables are missing.
    """
    if clock not in CLOCKS:
        raise InputError(f"clock = {clock}: must be one of {', '.join(CLOCKS)}")
    if clock == "roofline":
        return None
    return calibrated_roofline(gpu) if clock == "calibrated" else MeasuredKernels(gpu, data)
