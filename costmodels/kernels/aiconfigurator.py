"""NVIDIA's aiconfigurator tables: kernels of serving frameworks, as Parquet.

Layout: `FOLDER/SYSTEM/GROUP/FRAMEWORK/VERSION/TABLE.parquet`, as in the PyPI package `aiconfigurator-core`
(Apache-2.0, https://github.com/ai-dynamo/aiconfigurator). Latencies are in milliseconds: real layers of the
framework with synthetic weights, CUDA events around replays of CUDA graphs, 3 warm-ups, the mean of 6 runs.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.devices import device_name
from servegym.costmodels.kernels.schema import KernelTimings
from servegym.costmodels.kernels.table import Table

_MS = 1e-3
_GRAPH = "CUDA graph replays, mean of 6"

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "int4_wo": "int4"}
_ELEMENT_BYTES = {"bfloat16": 2, "float16": 2, "half": 2, "int8": 1}
"""Message sizes are in elements."""


def installed_folder() -> Path:
    """The tables inside the installed package `aiconfigurator-core`. Raises InputError where it is not."""
    spec = find_spec("aiconfigurator_core")
    roots = spec.submodule_search_locations if spec else None
    for root in roots or ():
        folder = Path(root) / "systems" / "data"
        if folder.is_dir():
            return folder
    raise InputError("package aiconfigurator-core is not installed; pip install 'servegym[kernels]'")


def systems(folder: str | Path) -> list[str]:
    """The systems (devices) that a folder has tables of, in order."""
    return sorted({path.parts[-5] for path in Path(folder).glob("*/*/*/*/*.parquet")})


def read(
    folder: str | Path,
    system: str,
    operators: Collection[str] | None = None,
    framework: str | None = None,
    version: str | None = None,
) -> list[KernelTimings]:
    """The tables of one system, one `KernelTimings` per file, operator, dtype, kv_dtype and variant.

    operators: read only tables with these. framework, version: only these folders' ("vllm", "0.24.0").
    The device is named after the system. Tables that no operator of the schema matches are left out (MLA,
    Mamba...). Raises InputError for a system without such tables, with file and row for bad values.
    """
    folder = Path(folder)
    paths = sorted((folder / system).glob(f"*/{framework or '*'}/{version or '*'}/*.parquet"))
    wanted = [
        path
        for path in paths
        if path.stem in _TABLES and (operators is None or set(operators) & set(_TABLES[path.stem][0]))
    ]
    timings = [
        each
        for path in wanted
        for each in _TABLES[path.stem][1](path, system)
        if operators is None or each.operator in operators
    ]
    if not timings:
        raise InputError(
            f"{folder}: no table of system {system}"
            + "".join(f", {name}" for name in (framework, version) if name)
            + (f", operators {', '.join(operators)}" if operators is not None else "")
            + f"; has systems {', '.join(systems(folder)) or 'none'} and reads {', '.join(_TABLES)}"
        )
    return timings


def _gemm(path: Path, system: str) -> Iterator[KernelTimings]:
    table = Table(path, ("gemm_dtype", "kernel_source", "m", "n", "k", "latency"))
    shapes = {name: table.integers(name) for name in ("m", "n", "k")}
    rotated = f"{_GRAPH}; weights rotated through 6 copies"
    includes = {
        "fp8": f"{rotated}; dynamic quantisation of the activations",
        "fp8_block": "eager, no CUDA graph: a floor of launch and Python time, about 55 us at the least; "
        "quantisation of the activations; one copy of the weights",
    }
    for (dtype, kernel), which in table.groups("gemm_dtype", "kernel_source"):
        said = includes.get(dtype, rotated)
        yield _timings("gemm", table, which, shapes, system, dtype, variant=kernel, includes=said)


def _prefill(path: Path, system: str) -> Iterator[KernelTimings]:
    return _attention("prefill_attention", path, system)


def _decode(path: Path, system: str) -> Iterator[KernelTimings]:
    return _attention("decode_attention", path, system)


def _attention(operator: str, path: Path, system: str) -> Iterator[KernelTimings]:
    columns = ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim")
    words = ("attn_dtype", "kv_cache_dtype", "kernel_source")
    table = Table(path, (*columns, *words, "latency"))
    batch, tokens, history, heads, kv_heads, head_dim = (table.integers(name) for name in columns)
    window = table.integers("window_size") if "window_size" in table else np.zeros_like(batch)
    shapes = {"batch": batch, "history": history, "heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    shapes["window"] = window
    if operator == "prefill_attention":
        shapes["tokens"] = tokens
    else:
        table.refuse("isl", tokens != 1, "1, the new token of a decode")
    includes = f"{_GRAPH}; paged KV, 64-token blocks in random order, the KV write included"
    for (dtype, kv_dtype, kernel), which in table.groups(*words):
        yield _timings(operator, table, which, shapes, system, dtype, kv_dtype, kernel, includes)


def _moe(path: Path, system: str) -> Iterator[KernelTimings]:
    columns = {
        "tokens": "num_tokens",
        "hidden": "hidden_size",
        "inter": "inter_size",
        "topk": "topk",
        "experts": "num_experts",
        "tp": "moe_tp_size",
        "ep": "moe_ep_size",
    }
    words = ("moe_dtype", "distribution", "kernel_source")
    table = Table(path, (*columns.values(), *words, "latency"))
    shapes = {name: table.integers(column) for name, column in columns.items()}
    for (dtype, distribution, kernel), which in table.groups(*words):
        variant = f"{distribution} {kernel}"
        yield _timings("moe", table, which, shapes, system, dtype, variant=variant, includes=_GRAPH)


def _all_reduce(path: Path, system: str) -> Iterator[KernelTimings]:
    return _collective(path, system, "allreduce_dtype")


def _nccl(path: Path, system: str) -> Iterator[KernelTimings]:
    return _collective(path, system, "nccl_dtype")


def _collective(path: Path, system: str, dtype_column: str) -> Iterator[KernelTimings]:
    words = ("op_name", dtype_column, "kernel_source")
    table = Table(path, (*words, "num_gpus", "message_size", "latency"))
    unknown = ~np.isin(table.text(dtype_column), list(_ELEMENT_BYTES))
    table.refuse(dtype_column, unknown, f"one of {', '.join(_ELEMENT_BYTES)}")
    elements, gpus = table.integers("message_size"), table.integers("num_gpus")
    for (name, dtype, kernel), which in table.groups(*words):
        operator = "all_to_all" if name == "alltoall" else name
        shapes = {"bytes": elements * _ELEMENT_BYTES[dtype], "gpus": gpus}
        includes = "the collective alone, GPUs of one node"
        yield _timings(operator, table, which, shapes, system, dtype, variant=kernel, includes=includes)


def _timings(
    operator: str,
    table: Table,
    which: npt.NDArray[np.int64],
    shapes: Mapping[str, npt.NDArray[np.int64]],
    system: str,
    dtype: str,
    kv_dtype: str = "bfloat16",
    variant: str = "",
    includes: str = "",
) -> KernelTimings:
    """These rows of a table. The folders name the software; nccl's column says which version really ran."""
    *_, framework, version, _ = Path(table.path).parts
    if "version" in table:
        version = str(table.text("version")[which[0]])
    return KernelTimings(
        operator,
        {name: values[which] for name, values in shapes.items()},
        table.seconds("latency", _MS)[which],
        device_name(system),
        f"{framework} {version}",
        _DTYPES.get(dtype, dtype),
        _DTYPES.get(kv_dtype, kv_dtype),
        variant,
        includes,
        table.path,
        table.rows[which],
    )


_TABLES: Mapping[str, tuple[Collection[str], Callable[[Path, str], Iterator[KernelTimings]]]] = {
    "gemm_perf": (("gemm",), _gemm),
    "context_attention_perf": (("prefill_attention",), _prefill),
    "generation_attention_perf": (("decode_attention",), _decode),
    "moe_perf": (("moe",), _moe),
    "custom_allreduce_perf": (("all_reduce",), _all_reduce),
    "nccl_perf": (("all_reduce", "all_gather", "reduce_scatter", "all_to_all"), _nccl),
}
"""By table: the operators in it, and its reader."""
