"""`servegym calibrate`: fits a cost model to kernel timings and writes its figures."""

import importlib.metadata
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig
from rich.console import Console
from rich.table import Table

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.folder import read_folder
from servegym.costmodels.kernels.schema import KernelTimings
from servegym.experiments.configs import read_config
from servegym.experiments.fits.calibration import MODELS, Fit


@dataclass
class CalibrateConfig:
    """Schema of `conf/calibrate.yaml`."""

    data: str = MISSING
    out: str = MISSING
    model: str = MISSING
    device: str | None = None
    dtype: str = MISSING
    kv_dtype: str = MISSING


def calibrate(config: DictConfig) -> dict[str, Any]:
    """Fits `model` to the timings of one device in the folder `data`, and writes the file `out`.

    The file of a roofline is what `servegym.costmodels.operators.calibrated.from_json` reads. InputError for
    unknown names, a folder in no known layout, and timings that do not determine the model.
    """
    settings = read_config(config, CalibrateConfig)
    if settings.model not in MODELS:
        raise InputError(f"model = {settings.model}: must be one of {', '.join(MODELS)}")
    tables, device = _tables(settings)
    fits = MODELS[settings.model](tables, device)
    provenance = {
        "data": Path(settings.data).resolve().name,
        "software": sorted({table.software for table in tables}),
        "dtype": settings.dtype,
        "kv_dtype": settings.kv_dtype,
        "servegym": importlib.metadata.version("servegym"),
        "timings": {fit.name: fit.timings for fit in fits},
        "variant": {fit.name: fit.variant for fit in fits},
        "mape_left_out": {fit.name: fit.left_out and round(fit.left_out.mape, 4) for fit in fits},
    }
    figures = "efficiencies" if settings.model == "roofline" else "laws"
    document = {"gpu": device, "provenance": provenance, figures: {fit.name: fit.figures for fit in fits}}
    _write(Path(settings.out), json.dumps(document, indent=2) + "\n")
    return {
        "out": settings.out,
        "model": settings.model,
        "device": device,
        "fits": [_as_json(fit) for fit in fits],
    }


def show(answer: dict[str, Any]) -> None:
    """Prints the errors on what was left out, and where the figures are."""
    console = Console(soft_wrap=True)
    table = Table("fitted to", "timings", "mean error", "median", "90 %", "bias")
    for fit in answer["fits"]:
        left_out = fit["left_out"]
        shares = [left_out[key] for key in ("mape", "p50", "p90", "bias")] if left_out else []
        words = [f"{100 * share:.1f} %" for share in shares] or ["-"] * 4
        table.add_row(fit["name"], str(fit["timings"]), *words)
    console.print(table)
    console.print("Errors are those on groups of shapes left out whole; - where there are too few groups.")
    console.print(f"{answer['model']} of {answer['device']}: {answer['out']}")


def _tables(settings: CalibrateConfig) -> tuple[list[KernelTimings], str]:
    """The timings to fit, of one device, and its name."""
    tables = read_folder(settings.data)
    devices = sorted({table.device for table in tables})
    device = settings.device or (devices[0] if len(devices) == 1 else None)
    if device not in devices:
        raise InputError(f"device = {settings.device}: {settings.data} has timings of {', '.join(devices)}")
    wanted = (device, settings.dtype, settings.kv_dtype)
    kept = [table for table in tables if (table.device, table.dtype, table.kv_dtype) == wanted]
    if not kept:
        raise InputError(
            f"{settings.data}: no timings of {device} with dtype {settings.dtype} and kv_dtype "
            f"{settings.kv_dtype}"
        )
    return kept, device


def _as_json(fit: Fit) -> dict[str, Any]:
    return {**vars(fit), "left_out": asdict(fit.left_out) if fit.left_out else None}


def _write(path: Path, text: str) -> None:
    """As a whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise InputError(f"out = {path}: cannot be written ({error.strerror})") from None
