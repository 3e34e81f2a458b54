"""LLMServingSim 2 profiles: the layers of a transformer under vLLM, each timed once.

A profile folder (https://github.com/casys-kaist/LLMServingSim, `profiler/perf/DEVICE/MODEL/DTYPE`) holds
`meta.yaml` and, per tensor-parallel degree, `tpN/{dense,per_sequence,attention,skew}.csv`, plain or gzipped:
microseconds of the CUDA kernels of one layer on one GPU, eager, mean of 3 runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.devices import device_name, model_of
from servegym.costmodels.kernels.schema import KernelTimings
from servegym.costmodels.kernels.table import Table, filled, find
from servegym.costmodels.specs import ModelSpec

_US = 1e-6
_INCLUDES = "CUDA kernels of one layer under vLLM's layerwise profiler, eager, without launch gaps; mean of 3"

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Curve(NamedTuple):
    """Seconds of one layer against tokens or sequences, in rising order, each once."""

    at: Integers
    seconds: Floats


@dataclass(frozen=True, eq=False)
class MixedAttention:
    """One attention call for a prefill chunk after a history, and `decodes` of equal history; (N,) each.

    `chunk` 0 means decodes only, `decodes` 0 the prefill only; not all combinations are there.
    """

    chunk: Integers
    chunk_history: Integers
    decodes: Integers
    decode_history: Integers
    seconds: Floats
    rows: Integers


@dataclass(frozen=True, eq=False)
class Skew:
    """Attention calls whose decodes have unequal histories, (N,) each.

    `big` of `decodes` have `big_history` KV tokens, the others `small_history`, beside a prefill chunk.
    `mean_s` and `max_s` are the same call with all of them at the mean and at the greatest history.
    """

    chunk: Integers
    chunk_history: Integers
    decodes: Integers
    big: Integers
    small_history: Integers
    big_history: Integers
    mean_s: Floats
    max_s: Floats
    seconds: Floats


@dataclass(frozen=True, eq=False)
class LayerProfile:
    """One tensor-parallel degree of a profile, as the files have it but in seconds."""

    model: ModelSpec
    device: str
    software: str
    dtype: str
    tensor_parallel: int
    source: str
    arguments: Mapping[str, Any]
    """The engine's own names: max_num_seqs, max_num_batched_tokens, block_size..."""
    dense: Mapping[str, Curve]
    """By layer, against the tokens of the iteration: embedding, layernorm, qkv_proj, rotary_emb, o_proj,
    gate_up_proj, act_fn, down_proj, final_layernorm. One call each."""
    per_sequence: Mapping[str, Curve]
    """By layer, against sequences: lm_head, sampler."""
    attention: MixedAttention
    skew: Skew | None

    def timings(self) -> list[KernelTimings]:
        """The same in the common schema, with the dimensions of one of `tensor_parallel` GPUs."""
        model, tp = self.model, self.tensor_parallel
        hidden, q = model.hidden_size, model.num_heads * model.head_dim // tp
        kv = model.num_kv_heads * model.head_dim // tp
        ffn, vocab = model.ffn_size // tp, model.vocab_size // tp
        gemms = {
            "qkv_proj": (q + 2 * kv, hidden),
            "o_proj": (hidden, q),
            "gate_up_proj": (2 * ffn, hidden),
            "down_proj": (hidden, ffn),
            "lm_head": (vocab, hidden),
        }
        widths = {
            "embedding": ("embedding", hidden),
            "layernorm": ("normalisation", hidden),
            "final_layernorm": ("normalisation", hidden),
            "rotary_emb": ("rotary", q + kv),
            "act_fn": ("activation", ffn),
        }
        made = []
        shapes: dict[str, npt.ArrayLike]
        for layer, curve in {**self.dense, **self.per_sequence}.items():
            if layer in gemms:
                operator = "gemm"
                n, k = gemms[layer]
                shapes = {"m": curve.at, "n": n, "k": k}
            elif layer in widths:
                operator, width = widths[layer]
                shapes = {"tokens": curve.at, "width": width}
            elif layer == "sampler":
                operator, shapes = "sampling", {"sequences": curve.at, "vocab": model.vocab_size}
            else:
                raise InputError(f"{self.source}: layer {layer} is unknown, known: {', '.join(_LAYERS)}")
            made.append(self._kernel(operator, shapes, curve.seconds, f"{layer}: {_INCLUDES}"))
        grid = self.attention
        shapes = {
            "tokens": grid.chunk,
            "history": grid.chunk_history,
            "decodes": grid.decodes,
            "decode_history": grid.decode_history,
            "heads": model.num_heads // tp,
            "kv_heads": max(1, model.num_kv_heads // tp),
            "head_dim": model.head_dim,
        }
        return [*made, self._kernel("mixed_attention", shapes, grid.seconds, _INCLUDES, grid.rows)]

    def _kernel(
        self,
        operator: str,
        shapes: Mapping[str, npt.ArrayLike],
        seconds: Floats,
        includes: str,
        rows: Integers | None = None,
    ) -> KernelTimings:
        return KernelTimings(
            operator,
            filled(shapes, len(seconds)),
            seconds,
            self.device,
            self.software,
            self.dtype,
            self.dtype,
            includes=includes,
            source=self.source,
            rows=np.zeros(0, np.int64) if rows is None else rows,
        )


_LAYERS = (
    "embedding", "layernorm", "qkv_proj", "rotary_emb", "o_proj", "gate_up_proj", "act_fn", "down_proj",
    "final_layernorm", "lm_head", "sampler",
)  # fmt: skip


def read_layer_profile(folder: str | Path, tensor_parallel: int = 1) -> LayerProfile:
    """Read one degree of a profile folder.

    Raises InputError for files or columns that are missing, a model without a preset, and with file and row
    for times that are not finite and above 0.
    """
    folder = Path(folder)
    meta_path = find(folder, "meta.yaml")
    meta = _read_meta(meta_path)
    tables = folder / f"tp{tensor_parallel}"
    if not tables.is_dir():
        raise InputError(
            f"{tables}: tensor_parallel = {tensor_parallel} is not in the profile: no such folder"
        )
    return LayerProfile(
        model=model_of(str(meta["model"]), str(meta_path)),
        device=device_name(str(meta["hardware"])),
        software=f"vllm {meta['vllm_version']}",
        dtype=str(meta["variant"]),
        tensor_parallel=tensor_parallel,
        source=str(tables),
        arguments=meta["engine_effective"],
        dense=_curves(find(tables, "dense.csv"), "tokens"),
        per_sequence=_curves(find(tables, "per_sequence.csv"), "sequences"),
        attention=_attention(find(tables, "attention.csv")),
        skew=_skew(find(tables, "skew.csv")) if any(tables.glob("skew.csv*")) else None,
    )


def _read_meta(path: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    try:
        meta = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # of the YAML parser or of OmegaConf; all mean the same here
        raise InputError(f"{path}: cannot be read as YAML: {str(error).splitlines()[0]}") from None
    keys = ("model", "hardware", "vllm_version", "variant", "engine_effective")
    absent = [key for key in keys if not isinstance(meta, dict) or key not in meta]
    if absent or not isinstance(meta, dict):
        raise InputError(f"{path}: {', '.join(absent)} is missing")
    return {str(key): value for key, value in meta.items()}


def _curves(path: Path, axis: str) -> dict[str, Curve]:
    table = Table(path, ("layer", axis, "time_us"))
    layers, at, seconds = table.text("layer"), table.integers(axis), table.seconds("time_us", _US)
    curves = {}
    for layer in dict.fromkeys(layers.tolist()):
        which = np.flatnonzero(layers == layer)
        which = which[np.argsort(at[which], kind="stable")]
        again = np.flatnonzero(np.diff(at[which]) == 0)
        if len(again):
            raise InputError(f"{path}, row {table.rows[which[again[0] + 1]]}: {layer} has {axis} twice")
        curves[layer] = Curve(at[which], seconds[which])
    return curves


def _attention(path: Path) -> MixedAttention:
    table = Table(path, ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"))
    return MixedAttention(
        chunk=table.integers("prefill_chunk"),
        chunk_history=table.integers("kv_prefill"),
        decodes=table.integers("n_decode"),
        decode_history=table.integers("kv_decode"),
        seconds=table.seconds("time_us", _US),
        rows=table.rows,
    )


def _skew(path: Path) -> Skew:
    table = Table(path, ("pc", "kp", "n", "nb", "kvs", "kv_big", "t_mean_us", "t_max_us", "t_skew_us"))
    return Skew(
        chunk=table.integers("pc"),
        chunk_history=table.integers("kp"),
        decodes=table.integers("n"),
        big=table.integers("nb"),
        small_history=table.integers("kvs"),
        big_history=table.integers("kv_big"),
        mean_s=table.seconds("t_mean_us", _US),
        max_s=table.seconds("t_max_us", _US),
        seconds=table.seconds("t_skew_us", _US),
    )
