"""A peer for `servegym validate kernels`: the estimator of NVIDIA's `aiconfigurator-core`, if installed.

It is given the same tables as our models and asked for the same shapes. The package (0.12) documents no
way to ask for one operator; the JSON below is what its messages ask for. Asked so for GEMMs that its tables
hold it returns them exactly, for decode attention within 2 %. For prefill attention it does not (24 %
off): that question is not understood well enough to be asked on its behalf.
"""

import importlib.util
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from servegym.costmodels.operators.work import Floats

_DTYPES = {"bf16": "bfloat16", "fp8": "fp8", "fp8_block": "fp8_block"}
_SCHEMA_VERSION = 15


def aiconfigurator_estimator(folder: Path, system: str, backend: str, version: str) -> "Estimator | None":
    """The estimator on the tables of `folder` (aiconfigurator's layout); None where it cannot be had."""
    if importlib.util.find_spec("aiconfigurator_core") is None or not (folder / f"{system}.yaml").is_file():
        return None
    return Estimator(folder, system, backend, version)


class Estimator:
    """GEMM and decode attention. A `KernelModel`; NaN for what the package has no answer to."""

    name = "aiconfigurator"

    def __init__(self, folder: Path, system: str, backend: str, version: str) -> None:
        from aiconfigurator_core import AicEngine, engine_spec_bincode_from_json

        engine = {"model_name": "any", "system_name": system, "backend": backend, "backend_version": version}
        spec = {
            "schema_version": _SCHEMA_VERSION,
            "engine": {"schema_version": _SCHEMA_VERSION, **engine, "tp_size": 1, "pp_size": 1},
            "context_ops": [],
            "generation_ops": [],
        }
        self._folder = tempfile.TemporaryDirectory()  # tables are read when first needed
        systems = Path(self._folder.name)
        text = (folder / f"{system}.yaml").read_text(encoding="utf-8")
        (systems / f"{system}.yaml").write_text(text, encoding="utf-8")
        (systems / "data").mkdir()  # the layout of the package: tables below data/
        (systems / "data" / system).symlink_to((folder / system).resolve())
        self._engine = AicEngine.from_spec(
            bytes(engine_spec_bincode_from_json(json.dumps(spec))), str(systems)
        )

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
        names = list(shapes)
        rows = np.stack(np.broadcast_arrays(*(np.asarray(shapes[name]) for name in names)), axis=-1)
        found = np.full(rows.shape[:-1], np.nan)
        for at in np.ndindex(found.shape):
            shape = {**dict(zip(names, rows[at].tolist(), strict=True)), "dtype": dtype, "kv_dtype": kv_dtype}
            if operator == "gemm":
                found[at] = self._ask("Gemm", shape, 1, shape["m"])
            elif operator == "decode_attention":
                found[at] = self._ask("GenerationAttention", shape, shape["batch"], shape["history"] + 1)
        return found

    def _ask(self, op: str, shape: Mapping[str, Any], batch: int, tokens: int) -> float:
        spec: dict[str, Any] = {"name": "op", "scale_factor": 1.0}
        if op == "Gemm":
            dtype = _DTYPES.get(shape["dtype"])
            spec |= {"n": shape["n"], "k": shape["k"], "quant_mode": dtype}
            spec |= {"scale_num_tokens": 1, "low_precision_input": False}
        else:
            dtype = _DTYPES.get(shape["kv_dtype"])
            spec |= {"n": shape["heads"], "n_kv": shape["kv_heads"], "head_size": shape["head_dim"]}
            spec |= {"window_size": shape["window"], "kv_cache_dtype": dtype}
        if dtype is None:
            return float("nan")
        ops = json.dumps([{op: spec}])
        try:
            [(_, milliseconds, _, _)] = self._engine.evaluate_ops_json(
                ops, op != "GenerationAttention", batch, tokens
            )
        except RuntimeError:  # it has no table for this head configuration
            return float("nan")
        return float(milliseconds) * 1e-3
