"""Make the presets of `costmodels/profiles/compiled` from measured kernel tables.

    python -m servegym.experiments.fits.compile_presets [FOLDER] [--out FOLDER]

FOLDER holds tables in the layout of NVIDIA's aiconfigurator (default: kernels/aiconfigurator of the data).
The same tables give the same times but for rounding (1e-6).
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.compile import CPU_OVERHEAD_S, kv_capacity_blocks
from servegym.costmodels.iterations.composer import Parallelism, compose_iteration_cost
from servegym.costmodels.iterations.cost import IterationCost
from servegym.costmodels.iterations.presets import compiled_folder, preset_name, write_preset
from servegym.costmodels.operators.measured_kernels import MeasuredKernels, vllm_tables
from servegym.costmodels.specs import GPUS, MODELS
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


class Preset(NamedTuple):
    """One preset before it is written."""

    name: str
    cost: IterationCost
    provenance: dict[str, Any]


def compile_presets(folder: Path) -> Iterator[Preset]:
    """All of PRESETS. InputError for a folder without their tables."""
    for system in dict.fromkeys(gpu for gpu, _, _ in PRESETS):
        tables = [each for each in vllm_tables(folder, system) if each.dtype == each.kv_dtype == "bf16"]
        kernels = MeasuredKernels(tables, GPUS[system])
        for gpu, model, tensor_parallel in PRESETS:
            if gpu == system:
                yield _compile(kernels, gpu, model, tensor_parallel)


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
        "command": "python -m servegym.experiments.fits.compile_presets FOLDER",
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
