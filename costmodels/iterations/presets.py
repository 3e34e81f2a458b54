"""Iteration tables made beforehand from measured kernels, by GPU, model and tensor parallelism.

A preset is two files of profiles/compiled: the tables as `.npz`, in float32 (relative error at most 6e-8),
and `.json` with their limits and where they come from. `python -m servegym.experiments.fits.compile_presets`
makes them.
"""

import json
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.cost import IterationCost, validate_iteration_cost

_BY_TOKENS = ("linear_s", "communication_s")
_BY_SEQS = ("lm_head_s", "sampler_s", "decode_attention_s", "mixed_decode_attention_s")


def compiled_folder() -> Traversable:
    """The committed presets."""
    return resources.files("servegym.costmodels") / "profiles" / "compiled"


def preset_name(gpu: str, model: str, tensor_parallel: int) -> str:
    """The name of a preset's files, such as `llama_3_1_8b-h100_sxm-tp1`."""
    return f"{model}-{gpu}-tp{tensor_parallel}"


def preset_names() -> list[str]:
    """All there are."""
    return sorted(
        each.name.removesuffix(".json") for each in compiled_folder().iterdir() if each.name.endswith(".json")
    )


def load_preset(
    gpu: str, model: str, tensor_parallel: int, *, max_num_batched_tokens: int, max_num_seqs: int
) -> IterationCost:
    """The tables of a preset up to the engine's limits, float64.

    Raises InputError where there is no such preset, or a limit is beyond what its tables reach.
    """
    name = preset_name(gpu, model, tensor_parallel)
    if name not in preset_names():
        raise InputError(
            f"no measured cost model of {model} on {tensor_parallel} x {gpu}; "
            f"there are {', '.join(preset_names())}"
        )
    cost = read_preset(compiled_folder(), name)
    reached = {"max_num_batched_tokens": len(cost.linear_s) - 1, "max_num_seqs": len(cost.lm_head_s) - 1}
    wanted = {"max_num_batched_tokens": max_num_batched_tokens, "max_num_seqs": max_num_seqs}
    for limit, most in reached.items():
        if not 1 <= wanted[limit] <= most:
            raise InputError(
                f"{limit} is {wanted[limit]}, must be from 1 to {most}: the measured cost model {name}"
            )
    tables = cost._asdict()
    for field in _BY_TOKENS:
        tables[field] = tables[field][: max_num_batched_tokens + 1]
    for field in _BY_SEQS:
        tables[field] = tables[field][: max_num_seqs + 1]
    sliced = IterationCost(**tables)
    validate_iteration_cost(sliced)
    return sliced


def read_preset(folder: Traversable, name: str) -> IterationCost:
    """A whole preset, as `write_preset` wrote it."""
    with (folder / f"{name}.npz").open("rb") as file, np.load(file, allow_pickle=False) as stored:
        tables: dict[str, Any] = {key: np.asarray(stored[key], np.float64) for key in stored.files}
    for key in ("overhead_s", "mixed_s_per_pair"):
        tables[key] = float(tables[key])
    # One kernel serves both kinds of iteration.
    return IterationCost(**tables, mixed_decode_attention_s=tables["decode_attention_s"])


def write_preset(folder: Path, name: str, cost: IterationCost, provenance: Mapping[str, Any]) -> None:
    """Writes both files, to the byte the same for the same tables. InputError where they cannot be kept."""
    tables = cost._asdict()
    if not np.array_equal(tables.pop("mixed_decode_attention_s"), cost.decode_attention_s):
        raise InputError(f"{name}: decodes beside prefill chunks must take what they take alone")
    if tables.pop("prefill_overhead_s"):
        raise InputError(f"{name}: prefill_overhead_s is {cost.prefill_overhead_s}, must be 0")
    folder.mkdir(parents=True, exist_ok=True)
    stored: dict[str, Any] = {key: np.asarray(value, np.float32) for key, value in tables.items()}
    np.savez_compressed(folder / f"{name}.npz", **stored)
    (folder / f"{name}.json").write_text(json.dumps(dict(provenance), indent=1) + "\n", encoding="utf-8")
