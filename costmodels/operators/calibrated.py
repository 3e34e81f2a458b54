"""The roofline with a few efficiencies per operator, fitted to timings by robust regression."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.schema import KernelTimings
from servegym.costmodels.operators.roofline import Efficiency, RooflineModel, broadcast_shapes
from servegym.costmodels.operators.work import UNITS, Work, work
from servegym.costmodels.specs import GpuSpec

# Start, least and largest of what is fitted. Above 1: nominal rates understate (clocks, tiles in flight).
_RANGES = {
    "compute": (0.7, 0.05, 1.5),
    "hbm": (0.8, 0.05, 1.5),
    "l2": (0.5, 0.02, 5.0),
    "link": (0.6, 0.05, 1.5),
    "exponential": (1.0, 0.1, 5.0),
    "tile_s": (1e-6, 1e-9, 1e-5),
    "launch_s": (4e-6, 1e-7, 1e-4),
    "sharpness": (3.0, 0.8, 30.0),
}
_MOST_ROWS = 3000
_SAME_BUT_FOR_LINKS = {"a800_sxm": "a100_sxm"}
"""A GPU reaches the same shares of its rates as another one."""


def fit_efficiency(timings: KernelTimings, gpu: GpuSpec) -> Efficiency:
    """The efficiencies that minimise the soft-L1 loss of log(predicted / measured), bends at 10 %.

    Only what `timings` can tell is fitted: terms that are zero on every row keep their defaults. Of more
    than 3,000 rows an even selection is taken.
    """
    from scipy.optimize import least_squares  # slow to import, and only fitting needs it

    step = -(-len(timings) // _MOST_ROWS)
    timings = timings.take(np.arange(0, len(timings), step))
    shapes = broadcast_shapes(timings.operator, timings.shapes)
    asked = work(timings.operator, shapes, gpu, timings.dtype, timings.kv_dtype)
    peak = gpu.peak(UNITS[timings.dtype])
    names = _fitted(asked)
    start, low, high = (np.log([_RANGES[name][i] for name in names]) for i in range(3))
    log_seconds = np.log(timings.seconds)

    def efficiency(logs: npt.NDArray[np.float64]) -> Efficiency:
        return Efficiency(**dict(zip(names, map(float, np.exp(logs)), strict=True)))

    def residuals(logs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(np.log(efficiency(logs).seconds(asked, gpu, peak)) - log_seconds)

    return efficiency(least_squares(residuals, start, bounds=(low, high), loss="soft_l1", f_scale=0.1).x)


def calibrate(timings: Iterable[KernelTimings], gpu: GpuSpec) -> RooflineModel:
    """The roofline with one efficiency for each operator in `timings`; several tables of one operator are
    refused, as they need not agree.
    """
    efficiencies: dict[str, Efficiency] = {}
    for table in timings:
        if table.operator in efficiencies:
            raise InputError(f"calibrate: two tables of {table.operator}, must be one of each operator")
        efficiencies[table.operator] = fit_efficiency(table, gpu)
    return RooflineModel(gpu, efficiencies, name="calibrated")


def calibrated_roofline(gpu: GpuSpec) -> RooflineModel:
    """The committed figures of `gpu` (profiles/calibrated). Raises InputError where there are none."""
    folder = resources.files("servegym.costmodels") / "profiles" / "calibrated"
    file = folder / f"{_SAME_BUT_FOR_LINKS.get(gpu.name, gpu.name)}.json"
    if not file.is_file():
        there = (
            sorted(each.name.removesuffix(".json") for each in folder.iterdir()) if folder.is_dir() else []
        )
        raise InputError(f"no calibrated roofline of {gpu.name}, there are: {', '.join(there)}")
    return from_json(json.loads(file.read_text()), gpu)


def to_json(model: RooflineModel, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of `model` and where they come from, as a JSON object."""
    figures = {
        operator: {name: float(f"{value:.4g}") for name, value in asdict(each).items() if np.isfinite(value)}
        for operator, each in model.efficiencies.items()
    }
    return {"gpu": model.gpu.name, "provenance": dict(provenance), "efficiencies": figures}


def from_json(document: Mapping[str, Any], gpu: GpuSpec) -> RooflineModel:
    """The model that `to_json` wrote."""
    figures = {operator: Efficiency(**each) for operator, each in document["efficiencies"].items()}
    return RooflineModel(gpu, figures, name="calibrated")


def _fitted(asked: Work) -> list[str]:
    terms = {
        "compute": asked.spent_flops,
        "hbm": asked.hbm_bytes,
        "l2": asked.l2_bytes,
        "link": asked.link_bytes,
        "exponential": asked.exponentials,
        "tile_s": asked.tiles,
    }
    names = [name for name, values in terms.items() if values.any()]
    # The bend is between terms: one alone has none.
    bend = ["sharpness"] if sum(name != "tile_s" for name in names) > 1 else []
    return [*names, "launch_s", *bend]
