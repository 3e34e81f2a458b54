"""`servegym validate kernels`: the kernel models against timings of shape groups left out whole."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.folder import read_folder
from servegym.costmodels.kernels.schema import KernelTimings
from servegym.costmodels.operators.calibrated import calibrate
from servegym.costmodels.operators.kernel_model import KernelModel
from servegym.costmodels.operators.layouts import LAYOUTS
from servegym.costmodels.operators.measured import MeasuredModel, join_variants
from servegym.costmodels.operators.roofline import RooflineModel
from servegym.costmodels.operators.validation import Errors, errors, predict, regions, worst_groups
from servegym.costmodels.operators.validation import folds as leave_out
from servegym.costmodels.operators.work import UNITS, Floats
from servegym.costmodels.progress import tracked
from servegym.costmodels.specs import GpuSpec, gpu_spec
from servegym.envs.workloads import find_data
from servegym.experiments.validation.aiconfigurator_estimator import aiconfigurator_estimator
from servegym.experiments.validation.kernel_figures import write_figures
from servegym.experiments.validation.predictions import write_predictions
from servegym.experiments.validation.random_forest import random_forest

DATA = "kernels/aiconfigurator"
TARGETS: Mapping[tuple[str, str], Mapping[str, float]] = {
    ("h100_sxm", "gemm"): {"measured": 0.04, "calibrated": 0.12},
    ("h100_sxm", "prefill_attention"): {"measured": 0.06, "calibrated": 0.15},
    ("h100_sxm", "decode_attention"): {"measured": 0.06, "calibrated": 0.15},
    ("a100_sxm", "gemm"): {"measured": 0.06},
    ("a100_sxm", "prefill_attention"): {"measured": 0.06},
    ("a100_sxm", "decode_attention"): {"measured": 0.06},
    ("h100_sxm", "all_reduce"): {"measured": 0.08},
    ("a100_sxm", "all_reduce"): {"measured": 0.08},
}
"""Mean absolute percentage errors at most, of tables in 16 bit, by device and operator."""
FEWEST_GROUPS = 8
"""Tables with fewer shape groups are not validated."""


def validate_kernels(
    data: str | None,
    device: str,
    *,
    software: str = "",
    folds: int = 10,
    unseen: str | None = None,
    out: str | None = None,
) -> dict[str, Any]:
    """Errors of all models on every table of `device` in folder `data`, in `folds` folds.

    With `unseen`, a folder that has more shape groups: errors on those that `data` lacks, of models fitted
    to all of `data`.

    `mape` is by table ("gemm", "gemm fp8"), region ("all", "m up to 16") and model; `errors` has, for
    "all", the other figures; `outside` counts the rows left out that lie outside what was left, where the
    measured table extrapolates by the roofline. `out`: folder for the figures and the
    predictions.
    """
    tables = _tables(data, device, software)
    gpu = gpu_spec(device)
    answer: dict[str, Any] = {
        "device": device,
        "folds": folds,
        "unseen": unseen,
        **{key: {} for key in ("mape", "errors", "worst", "outside")},
        "targets": [],
    }
    predictions = {}
    more = None if unseen is None else _of_device(unseen, device, software)
    for label, table in tracked(tables.items(), "Left out", "tables"):
        timings = table if more is None else _unseen_groups(table, more)
        if timings is None:
            continue
        splits = _splits(timings, folds) if more is None else [(table, np.ones(len(timings), np.bool_))]
        predicted, outside = _predict(timings, splits, gpu)
        peer = None if more is None else _peer(data, table)
        if peer is not None:
            predicted[peer.name] = predict(peer, timings)
        masks = {"all": np.ones(len(timings), np.bool_), **regions(timings)}
        answer["mape"][label] = {
            region: {
                model: _errors(seconds[mask], timings.seconds[mask]).mape
                for model, seconds in predicted.items()
            }
            for region, mask in masks.items()
        }
        answer["errors"][label] = {
            model: asdict(_errors(seconds, timings.seconds)) for model, seconds in predicted.items()
        }
        answer["worst"][label] = worst_groups(timings, predicted["measured"])
        answer["outside"][label] = outside
        answer["targets"] += _targets(label, timings, answer["mape"][label]["all"])
        predictions[label] = (timings, predicted)
    if not predictions:
        raise InputError(f"unseen = {unseen}: has no shape group of {device} that the data lack")
    if out is not None:
        answer["figures"] = write_figures(Path(out), predictions)
        write_predictions(Path(out), predictions)
    return answer


def show(answer: dict[str, Any]) -> None:
    """Prints the errors, the targets, and which shapes are to blame."""
    console = Console(soft_wrap=True)
    models = list(dict.fromkeys(model for each in answer["mape"].values() for model in each["all"]))
    table = Table(
        "table", "region", *models, title=f"Mean absolute error, {answer['device']}", highlight=True
    )
    for label, by_region in answer["mape"].items():
        for region, by_model in by_region.items():
            name = label if region == "all" else ""
            table.add_row(name, region, *(_percent(by_model.get(model)) for model in models))
    console.print(table)
    table = Table("table", "rows", "P50", "P90", "max", "bias", "outside", "worst groups", title="Measured")
    for label, by_model in answer["errors"].items():
        each = by_model["measured"]
        figures = (f"{each[key]:.1%}" for key in ("p50", "p90", "max", "bias"))
        worst = "; ".join(f"{shape}: {error:.0%}" for shape, error in answer["worst"][label])
        table.add_row(label, f"{each['rows']:,}", *figures, str(answer["outside"][label]), worst)
    console.print(table)
    for each in answer["targets"]:
        verdict = "met" if each["met"] else f"missed by {each['mape'] - each['at_most']:.1%}"
        console.print(
            f"{each['table']}, {each['model']}: {each['mape']:.2%}, at most {each['at_most']:.0%}: {verdict}"
        )
    how = f"{answer['folds']} folds" if answer["unseen"] is None else f"fitted without {answer['unseen']}"
    console.print(
        f"{how}. Left out whole: GEMM (n, k), attention (heads, KV heads, head dimension), "
        "experts (hidden, inner, top k, experts), collectives the message size."
    )


def _errors(predicted_s: Floats, measured_s: Floats) -> Errors:
    """Errors of the rows that a model (a peer) has an answer to; NaN without any."""
    known = np.isfinite(predicted_s)
    if not known.any():
        return Errors(0, *(float("nan"),) * 5)
    return errors(predicted_s[known], measured_s[known])


def _percent(share: float | None) -> str:
    return "" if share is None or np.isnan(share) else f"{share:.1%}"


def _peer(data: str | None, table: KernelTimings) -> KernelModel | None:
    """NVIDIA's estimator on the folder that our models are fitted to, for what it knows; None without it."""
    folder = Path(data) if data is not None else find_data(DATA)
    if folder is None or table.operator not in ("gemm", "decode_attention"):
        return None
    backend, _, version = table.software.partition(" ")
    return aiconfigurator_estimator(folder, table.device, backend, version)


def _tables(data: str | None, device: str, software: str) -> dict[str, KernelTimings]:
    """The tables of `device` that can be validated, by a name of their own."""
    folder = data if data is not None else find_data(DATA)
    if folder is None:
        raise InputError(f"data is null and {DATA} is not there: give data=FOLDER, or set SERVEGYM_DATA")
    tables = [
        each
        for each in _of_device(folder, device, software)
        if each.operator in LAYOUTS
        and each.dtype in UNITS
        and each.kv_dtype in UNITS
        and int(LAYOUTS[each.operator].groups(each).max()) + 1 >= FEWEST_GROUPS
    ]
    if not tables:
        raise InputError(f"{folder}: no table of {device} has {FEWEST_GROUPS} shape groups or more")
    tables.sort(key=lambda each: list(LAYOUTS).index(each.operator))
    return dict(zip(_labels(tables), tables, strict=True))


def _of_device(folder: str | Path, device: str, software: str) -> list[KernelTimings]:
    """The tables of one device in a folder, variants joined."""
    timings = [each for each in read_folder(folder) if software in each.software]
    mine = [each for each in timings if each.device == device]
    if not mine:
        there = ", ".join(sorted({each.device for each in timings})) or "nothing"
        raise InputError(
            f"device = {device}: {folder} has timings of {there}" + f" by {software}" * bool(software)
        )
    return join_variants(mine)


def _unseen_groups(table: KernelTimings, more: Sequence[KernelTimings]) -> KernelTimings | None:
    """Of the same table in `more` the timings whose shape group `table` lacks; None without any."""
    kind = ("operator", "software", "dtype", "kv_dtype", "variant")
    dimensions = LAYOUTS[table.operator].group
    seen = set(zip(*(table.shapes[name] for name in dimensions), strict=True))
    for each in more:
        if all(getattr(each, name) == getattr(table, name) for name in kind):
            groups = zip(*(each.shapes[name] for name in dimensions), strict=True)
            new = np.array([group not in seen for group in groups])
            return each.take(new) if new.any() else None
    return None


def _splits(timings: KernelTimings, count: int) -> list[tuple[KernelTimings, npt.NDArray[np.bool_]]]:
    """What to fit on and what to predict, fold by fold."""
    return [(timings.take(~left_out), left_out) for left_out in leave_out(timings, count)]


def _labels(tables: Sequence[KernelTimings]) -> list[str]:
    """Operator, dtypes other than bf16, and as much more as tells a table from the others."""
    labels = [
        each.operator
        + (f" {each.dtype}" if each.dtype != "bf16" else "")
        + (f" kv {each.kv_dtype}" if each.kv_dtype != "bf16" else "")
        for each in tables
    ]
    for name in ("variant", "software", "source"):
        count = Counter(labels)
        labels = [
            f"{label} {getattr(each, name)}".rstrip() if count[label] > 1 else label
            for label, each in zip(labels, tables, strict=True)
        ]
    return labels


def _predict(
    timings: KernelTimings, splits: Sequence[tuple[KernelTimings, npt.NDArray[np.bool_]]], gpu: GpuSpec
) -> tuple[dict[str, Floats], int]:
    """By model what it says of timings it was not fitted to, and how many lie outside what it was."""
    outside = 0

    def measured(train: KernelTimings, left_out: KernelTimings) -> KernelModel:
        nonlocal outside
        model = MeasuredModel([train], gpu, extrapolate="roofline")
        kind = {"dtype": timings.dtype, "kv_dtype": timings.kv_dtype, "variant": timings.variant}
        outside += int((~model.covers(timings.operator, left_out.shapes, **kind)).sum())
        return model

    fits: dict[str, Callable[[KernelTimings, KernelTimings], KernelModel]] = {
        "roofline": lambda train, left_out: RooflineModel(gpu),
        "calibrated": lambda train, left_out: calibrate([train], gpu),
        "measured": measured,
    }
    forest = random_forest()
    if forest is not None:
        fits["random forest"] = lambda train, left_out: forest(train)
    predicted = {name: np.full(len(timings), np.nan) for name in fits}
    for train, mask in splits:
        left_out = timings.take(mask)
        for name, fit in fits.items():
            predicted[name][mask] = predict(fit(train, left_out), left_out)
    return predicted, outside


def _targets(label: str, timings: KernelTimings, mape: Mapping[str, float]) -> list[dict[str, Any]]:
    limits = TARGETS.get((timings.device, timings.operator), {})
    if timings.dtype not in ("bf16", "fp16") or timings.kv_dtype != "bf16":
        limits = {}
    return [
        {"table": label, "model": model, "mape": mape[model], "at_most": most, "met": mape[model] <= most}
        for model, most in limits.items()
    ]
