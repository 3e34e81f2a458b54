"""All kernels of a GPU: measured where there is a table of the operator, else the calibrated roofline."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from servegym.costmodels.iterations.cost import Floats
from servegym.costmodels.kernels.aiconfigurator import read
from servegym.costmodels.kernels.schema import KernelTimings
from servegym.costmodels.operators.calibrated import calibrated_roofline
from servegym.costmodels.operators.measured import MeasuredModel, join_variants
from servegym.costmodels.specs import GpuSpec

_OPERATORS = ("gemm", "prefill_attention", "decode_attention", "all_reduce")
_EAGER = "vLLM_custom_eager"
"""All-reduce without CUDA graphs, which vLLM does not use for decodes: the table with graphs is taken."""


_MOST_KV_HEADS = 8
"""Of a GPU, in the tables of decode attention."""


def vllm_tables(folder: str | Path, system: str) -> list[KernelTimings]:
    """The tables of vLLM's kernels on a GPU, in a folder of aiconfigurator's layout."""
    timings = join_variants(read(folder, system, _OPERATORS, framework="vllm"))
    return [each for each in timings if each.variant != _EAGER]


class MeasuredKernels:
    """Measured tables where there is one of the operator, else the calibrated roofline; counts shapes.

    Outside its table an operator keeps the efficiency at the edge over the roofline. A `KernelModel`.
    `shapes` and `outside` count, by operator, the shapes asked for and those outside the tables.
    """

    name = "measured"

    def __init__(self, timings: Sequence[KernelTimings], gpu: GpuSpec) -> None:
        self.timings = timings
        self.tables = MeasuredModel(timings, gpu, extrapolate="roofline")
        self.calibrated = calibrated_roofline(gpu)
        self.shapes, self.outside = Counter[str](), Counter[str]()

    def seconds(
        self,
        operator: str,
        shapes: Mapping[str, npt.ArrayLike],
        *,
        dtype: str = "bf16",
        kv_dtype: str = "bf16",
        variant: str = "",
    ) -> Floats:
        """See `KernelModel`."""
        kind = {"dtype": dtype, "kv_dtype": kv_dtype, "variant": variant}
        if operator not in _OPERATORS:
            return self.calibrated.seconds(operator, shapes, **kind)
        if operator == "decode_attention":
            shapes = _with_few_kv_heads(shapes)
        covered = self.tables.covers(operator, shapes, **kind)
        self.shapes[operator] += covered.size
        self.outside[operator] += int(np.count_nonzero(~covered))
        return self.tables.seconds(operator, shapes, **kind)


def _with_few_kv_heads(shapes: Mapping[str, npt.ArrayLike]) -> dict[str, npt.ArrayLike]:
    """The same work on a table with fewer KV heads: heads attend on their own, as sequences do.

    In the A100's table (decode attention in which every head has keys of its own), a quarter of the heads
    and four times the sequences take the same time within 2 % (mean of 151 pairs of timings).
    """
    parts = max(int(np.max(shapes["kv_heads"])) // _MOST_KV_HEADS, 1)
    heads = {name: np.asarray(shapes[name]) // parts for name in ("heads", "kv_heads")}
    return {**shapes, **heads, "batch": np.asarray(shapes["batch"]) * parts}
