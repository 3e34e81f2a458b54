"""Vidur's profiles: CSV tables of single kernels (Agrawal et al., MLSys 2024, https://github.com/microsoft/vidur).

Times are medians in milliseconds by PyTorch's profiler (resolution 1 us), fp16, without launch gaps. The
tables: `mlp.csv` (projections, norms, rotary, activation, embedding), `attention.csv`, `all_reduce.csv` and
`send_recv.csv`, `cpu_overheads.csv`; plain or gzipped. Frontier (NetX-lab) writes the same.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.devices import device_name
from servegym.costmodels.kernels.schema import KernelTimings
from servegym.costmodels.kernels.table import Table

_MS = 1e-3
_KERNELS = "kernels by PyTorch's profiler, median, without launch gaps"

_SECTIONS = ("compute", "network", "cpu_overhead", "cpu_overheads", "history", "profiling")


def read(path: str | Path) -> list[KernelTimings]:
    """The timings of one table, or of all tables under a folder, by the names of the files.

    The device is named by the folder below `compute`, `network`..., as Vidur lays them out, else by the one
    that holds the file. Raises InputError where there is no table, and with file and row for bad values.
    """
    path = Path(path)
    files = [path] if path.is_file() else sorted(path.rglob("*.csv*"))
    timings = [each for file in files if (reader := _reader(file)) for each in reader(file)]
    if not timings:
        raise InputError(f"{path}: no table of Vidur; must be or hold {', '.join(TABLES)} (or .gz)")
    return timings


def holds_tables(folder: Path) -> bool:
    """Whether a file below the folder has the name of a table of Vidur."""
    return any(_reader(path) for path in folder.rglob("*.csv*"))


def _reader(path: Path) -> Callable[[Path], Iterator[KernelTimings]] | None:
    name = path.name.removesuffix(".gz")
    for table, reader in TABLES.items():
        if name == table or name.endswith(f"_{table}"):
            return reader
    return None


def _mlp(path: Path) -> Iterator[KernelTimings]:
    sizes = ("n_embd", "n_head", "n_kv_head", "n_expanded_embd", "num_tokens", "num_tensor_parallel_workers")
    table = Table(path, (*sizes, "use_gated_mlp"))
    hidden, heads, kv_heads, ffn, tokens, tp = (table.integers(name) for name in sizes)
    _refuse_uneven(table, tp, {"n_head": heads, "n_expanded_embd": ffn})
    gated = np.char.lower(table.text("use_gated_mlp")) == "true"
    head_dim = hidden // heads
    q, kv, ffn = head_dim * heads // tp, head_dim * np.maximum(kv_heads // tp, 1), ffn // tp
    norm = ("normalisation", {"tokens": tokens, "width": hidden})
    for column, (operator, shapes) in {
        "emb": ("embedding", {"tokens": tokens, "width": hidden}),
        "input_layernorm": norm,
        "attn_pre_proj": ("gemm", {"m": tokens, "n": q + 2 * kv, "k": hidden}),
        "attn_rope": ("rotary", {"tokens": tokens, "width": q + kv}),
        "attn_post_proj": ("gemm", {"m": tokens, "n": hidden, "k": q}),
        "post_attention_layernorm": norm,
        "mlp_up_proj": ("gemm", {"m": tokens, "n": np.where(gated, 2 * ffn, ffn), "k": hidden}),
        "mlp_act": ("activation", {"tokens": tokens, "width": ffn}),
        "mlp_down_proj": ("gemm", {"m": tokens, "n": hidden, "k": ffn}),
    }.items():
        name = f"time_stats.{column}.median"
        if name not in table:
            continue  # models without it: Phi-2 has one norm a layer
        timed = ~np.isnan(table.numbers(name, empty=True))  # some are not measured on every GPU count
        variants = [("", gated), ("ungated", ~gated)] if operator == "activation" else [("", timed)]
        for variant, of_variant in variants:
            which = np.flatnonzero(timed & of_variant)
            if len(which):
                yield _timings(operator, table, which, shapes, name, variant, f"{column}: {_KERNELS}")


def _attention(path: Path) -> Iterator[KernelTimings]:
    sizes = ("n_embd", "n_q_head", "n_kv_head", "num_tensor_parallel_workers")
    work = ("batch_size", "prefill_chunk_size", "kv_cache_size")
    prefill, decode = "time_stats.attn_prefill.median", "time_stats.attn_decode.median"
    table = Table(path, (*sizes, *work, "is_prefill", "attention_backend", prefill, decode))
    hidden, heads, kv_heads, tp = (table.integers(name) for name in sizes)
    batch, chunk, history = (table.integers(name) for name in work)
    _refuse_uneven(table, tp, {"n_q_head": heads})
    shapes = {
        "batch": batch,
        "history": history,
        "heads": heads // tp,
        "kv_heads": np.maximum(kv_heads // tp, 1),
        "head_dim": hidden // heads,
        "window": np.zeros_like(batch),
    }
    for (is_prefill, backend), which in table.groups("is_prefill", "attention_backend"):
        variant = backend.removeprefix("AttentionBackend.")
        if is_prefill.lower() == "true":
            with_tokens = {**shapes, "tokens": chunk}
            yield _timings("prefill_attention", table, which, with_tokens, prefill, variant, _KERNELS)
        else:
            yield _timings("decode_attention", table, which, shapes, decode, variant, _KERNELS)


def _network(path: Path) -> Iterator[KernelTimings]:
    table = Table(path, ("num_workers", "size", "collective", "devices_per_node"))
    shapes = {"bytes": table.integers("size"), "gpus": table.integers("num_workers")}
    for (operator, per_node), which in table.groups("collective", "devices_per_node"):
        name = f"time_stats.{operator}.median"
        if name not in table:
            raise InputError(f"{path}: column {name} is missing, as row {which[0] + 1} has it as collective")
        includes = f"median of 3 steps, {per_node} GPUs a node"
        yield _timings(operator, table, which, shapes, name, f"{per_node} per node", includes)


def _cpu_overheads(path: Path) -> Iterator[KernelTimings]:
    """The parts that Vidur adds to the model's time of every iteration, as one sum."""
    parts = ("schedule", "sampler_e2e", "prepare_inputs_e2e", "process_model_outputs")
    columns = (*(f"{part}_median" for part in parts), "ray_comm_time_mean")
    table = Table(path, ("model_name", "batch_size", "tensor_parallel_degree", *columns))
    shapes = {"sequences": table.integers("batch_size"), "gpus": table.integers("tensor_parallel_degree")}
    seconds = np.sum([table.seconds(name, _MS) for name in columns], axis=0)
    includes = f"Sarathi-Serve, CPU time of {', '.join(parts)} (medians) and Ray (mean)"
    for (model,), which in table.groups("model_name"):
        yield _timings("cpu_overhead", table, which, shapes, seconds, model, includes)


def _refuse_uneven(
    table: Table, tp: npt.NDArray[np.int64], sizes: Mapping[str, npt.NDArray[np.int64]]
) -> None:
    table.refuse("num_tensor_parallel_workers", tp < 1, "at least 1")
    for name, values in sizes.items():
        table.refuse(name, (values < 1) | (values % tp != 0), "a multiple of num_tensor_parallel_workers")


def _timings(
    operator: str,
    table: Table,
    which: npt.NDArray[np.int64],
    shapes: Mapping[str, npt.NDArray[np.int64]],
    time: str | npt.NDArray[np.float64],
    variant: str,
    includes: str,
) -> KernelTimings:
    """These rows; `time` is a column in milliseconds, or seconds."""
    if isinstance(time, str):
        time = table.numbers(time, empty=True) * _MS
    return KernelTimings(
        operator,
        {name: values[which] for name, values in shapes.items()},
        time[which],
        _device(Path(table.path)),
        "vidur",
        "fp16",
        "fp16",
        variant,
        includes,
        table.path,
        table.rows[which],
    )


def _device(path: Path) -> str:
    folders = path.resolve().parts[:-1]
    below = [folder for above, folder in pairwise(folders) if above in _SECTIONS]
    return device_name(below[-1] if below else folders[-1])


TABLES: Mapping[str, Callable[[Path], Iterator[KernelTimings]]] = {
    "mlp.csv": _mlp,
    "attention.csv": _attention,
    "all_reduce.csv": _network,
    "send_recv.csv": _network,
    "cpu_overheads.csv": _cpu_overheads,
}
"""By the end of the file's name."""
