"""Make the presets of `costmodels/profiles/compiled` from measured kernel tables.

    python -m servegym.experiments.compile_presets [FOLDER] [--out FOLDER]

FOLDER holds tables in the layout of NVIDIA's aiconfigurator (default: kernels/aiconfigurator of the data).
The same tables give the same times but for rounding (1e-6).
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from servegym.costmodels.calibrated import calibrated_roofline
from servegym.costmodels.compile import CPU_OVERHEAD_S, kv_capacity_blocks
from servegym.costmodels.composer import Parallelism, compose_iteration_cost
from servegym.costmodels.errors import InputError
from servegym.costmodels.iteration import Floats, IterationCost
from servegym.costmodels.kernels.aiconfigurator import read
from servegym.costmodels.kernels.schema import KernelTimings
from servegym.costmodels.measured import MeasuredModel, join_variants
from servegym.costmodels.presets import compiled_folder, preset_name, write_preset
from servegym.costmodels.specs import GPUS, MODELS, GpuSpec
from servegym.envs.workloads import find_data

DATA = "kernels/aiconfigurator"
PRESETS = (
    ("h100_sxm", "llama_3_1_8b", 1),
    ("h100_sxm", "llama_3_1_70b", 4),
    ("a100_sxm", "llama_3_1_8b", 1),
    ("a100_sxm", "llama_2_7b", 1),
)
"""GPU, model and GPUs of a replica; all in bf16."""

MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS = 8192, 1024
"""Defaults of vLLM's server on H100: what the tables reach."""

BLOCK_SIZE = 16
_OPERATORS = ("gemm", "prefill_attention", "decode_attention", "all_reduce")
_EAGER = "vLLM_custom_eager"
"""All-reduce without CUDA graphs, which vLLM does not use for decodes: the table with graphs is taken."""


_MOST_KV_HEADS = 8
"""Of a GPU, in the tables of decode attention."""


class Preset(NamedTuple):
    """One preset before it is written."""

    name: str
    cost: IterationCost
    provenance: dict[str, Any]


class MeasuredKernels:
    """Measured tables where there is one of the operator, else the calibrated roofline; counts shapes.

    Outside its table an operator keeps the efficiency at the edge over the roofline. A `KernelModel`.
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


def compile_presets(folder: Path) -> Iterator[Preset]:
    """All of PRESETS. InputError for a folder without their tables."""
    for system in dict.fromkeys(gpu for gpu, _, _ in PRESETS):
        kernels = MeasuredKernels(_tables(folder, system), GPUS[system])
        for gpu, model, tensor_parallel in PRESETS:
            if gpu == system:
                yield _compile(kernels, gpu, model, tensor_parallel)


def _tables(folder: Path, system: str) -> list[KernelTimings]:
    timings = join_variants(read(folder, system, _OPERATORS, framework="vllm"))
    return [each for each in timings if each.dtype == each.kv_dtype == "bf16" and each.variant != _EAGER]


def _compile(kernels: MeasuredKernels, gpu: str, model: str, tensor_parallel: int) -> Preset:
    kernels.shapes.clear()
    kernels.outside.clear()
    spec = MODELS[model]
    blocks = kv_capacity_blocks(spec, GPUS[gpu], tensor_parallel=tensor_parallel, block_size=BLOCK_SIZE)
    cost = compose_iteration_cost(
        spec,
        kernels,
        max_num_batched_tokens=MAX_NUM_BATCHED_TOKENS,
        max_num_seqs=MAX_NUM_SEQS,
        max_kv_tokens=blocks * BLOCK_SIZE,
        parallelism=Parallelism(tensor=tensor_parallel),
    )
    used = [each for each in kernels.timings if each.operator in kernels.shapes]
    provenance = {
        "gpu": gpu,
        "model": model,
        "tensor_parallel": tensor_parallel,
        "dtype": "bf16",
        "max_num_batched_tokens": MAX_NUM_BATCHED_TOKENS,
        "max_num_seqs": MAX_NUM_SEQS,
        "max_kv_tokens": blocks * BLOCK_SIZE,
        "cpu_overhead_s": CPU_OVERHEAD_S,
        "decode_skew": 1.0,
        "licence": "Apache-2.0, NVIDIA CORPORATION & AFFILIATES (ai-dynamo/aiconfigurator)",
        "measured": {
            each.operator: {
                "table": "/".join(Path(each.source).parts[-5:]),
                "software": each.software,
                "rows": len(each),
                "includes": each.includes,
                "share_extrapolated": round(
                    kernels.outside[each.operator] / kernels.shapes[each.operator], 4
                ),
            }
            for each in used
        },
        "extrapolated": "outside its table: the efficiency at its edge over the roofline; prefill chunks "
        "were measured without history, GEMMs up to n 65,536, decodes up to 2,048 sequences of 8 KV heads "
        "(for more KV heads, as many more sequences)",
        "not_measured": "norms, rotary embedding, activation and embedding: the calibrated roofline; "
        "sampler: the bare roofline",
        "rounding": "float32, relative error at most 6e-8",
        "command": "python -m servegym.experiments.compile_presets FOLDER",
    }
    return Preset(preset_name(gpu, model, tensor_parallel), cost, provenance)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Iteration tables composed from measured kernels.")
    parser.add_argument("folder", nargs="?", type=Path, default=find_data(DATA), metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path(str(compiled_folder())), help="default: the package")
    options = parser.parse_args(arguments)
    try:
        if options.folder is None:
            raise InputError(f"{DATA} is not there: give FOLDER, or set SERVEGYM_DATA")
        for name, cost, provenance in compile_presets(options.folder):
            write_preset(options.out, name, cost, provenance)
            print(options.out / name)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
