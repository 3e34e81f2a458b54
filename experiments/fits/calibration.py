"""Fits cost models to kernel timings, each with its error on groups of shapes that were left out whole."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from servegym.costmodels.batch import LinearBatchLatency
from servegym.costmodels.elastic.prefill_law import PrefillLaw
from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.schema import KernelTimings
from servegym.costmodels.operators.calibrated import calibrate, to_json
from servegym.costmodels.operators.layouts import LAYOUTS
from servegym.costmodels.operators.validation import Errors, errors, predict_left_out
from servegym.costmodels.operators.work import Floats
from servegym.costmodels.progress import tracked
from servegym.costmodels.specs import GpuSpec, gpu_spec, model_spec

FOLDS = 5
"""Parts of the configurations of an operator; each is predicted from the others."""


@dataclass(frozen=True)
class Fit:
    """One fit: to what, its figures, and how it does on what it has not seen."""

    name: str
    figures: dict[str, Any]
    timings: int
    variant: str
    """Of the table that it is fitted to."""
    left_out: Errors | None
    """None where there are too few groups to leave one out."""


def fit_roofline(tables: Sequence[KernelTimings], device: str) -> list[Fit]:
    """The efficiencies of each operator; of several tables of one operator the longest counts.

    InputError for a device without a preset, and where the roofline counts none of the operators.
    """
    gpu = gpu_spec(device)
    longest: dict[str, KernelTimings] = {}
    for table in tables:
        if table.operator in LAYOUTS and len(table) > len(longest.get(table.operator, ())):
            longest[table.operator] = table
    if not longest:
        raise InputError(f"no timings that the roofline knows: must be of {', '.join(LAYOUTS)}")
    return [_fit_operator(table, gpu) for table in tracked(longest.values(), "Fitting", "operators")]


def fit_batch(tables: Sequence[KernelTimings], device: str) -> list[Fit]:
    """l(b) of a decode iteration's layers, from timings of whole layers, by model, shards and history."""
    fits = []
    for name, layers, part in _layers(tables, "decode_layer", ("tp", "history")):
        seconds = layers * part.seconds
        batch = part.shapes["batch"]
        if len(np.unique(batch)) < 2:
            continue
        law = LinearBatchLatency.fit(batch, seconds)
        left_out = None
        if len(np.unique(batch)) > 2:
            left_out = _leave_one_out(
                batch,
                seconds,
                lambda keep, out, batch=batch, seconds=seconds: LinearBatchLatency.fit(
                    batch[keep], seconds[keep]
                ).seconds(batch[out]),
            )
        fits.append(Fit(name, asdict(law), len(part), part.variant, left_out))
    if not fits:
        raise InputError("no timings of whole layers that decode (decode_layer) at two batch sizes or more")
    return fits


def fit_sequence_parallel(tables: Sequence[KernelTimings], device: str) -> list[Fit]:
    """T_sp of a prefill's layers, from timings of whole layers without history, by model and shards."""
    fits = []
    for name, layers, part in _layers(tables, "prefill_layer", ("tp",), first_history=True):
        seconds = layers * part.seconds
        columns = (part.shapes["batch"].tolist(), part.shapes["tokens"].tolist())
        batches = [[tokens] * batch for batch, tokens in zip(*columns, strict=True)]
        law = PrefillLaw.fit(batches, seconds)
        left_out = None
        if len(batches) > 3:
            left_out = _leave_one_out(
                np.arange(len(batches)),
                seconds,
                lambda keep, out, batches=batches, seconds=seconds: PrefillLaw.fit(
                    [batches[i] for i in np.flatnonzero(keep)], seconds[keep]
                ).batch_seconds([batches[i] for i in np.flatnonzero(out)]),
            )
        fits.append(Fit(name, asdict(law), len(part), part.variant, left_out))
    if not fits:
        raise InputError("no timings of whole layers that prefill (prefill_layer) without history")
    return fits


MODELS: dict[str, Callable[[Sequence[KernelTimings], str], list[Fit]]] = {
    "roofline": fit_roofline,
    "batch": fit_batch,
    "sequence_parallel": fit_sequence_parallel,
}
"""What can be fitted."""


def _fit_operator(table: KernelTimings, gpu: GpuSpec) -> Fit:
    predicted = predict_left_out(lambda train, _: calibrate([train], gpu), table, FOLDS)
    done = np.isfinite(predicted)
    left_out = errors(predicted[done], table.seconds[done]) if done.any() else None
    figures = to_json(calibrate([table], gpu), {})["efficiencies"][table.operator]
    return Fit(table.operator, figures, len(table), table.variant, left_out)


def _layers(
    tables: Sequence[KernelTimings], operator: str, keys: tuple[str, ...], first_history: bool = False
) -> Iterator[tuple[str, int, KernelTimings]]:
    """Timings of whole layers apart by model and `keys`: a name, the layers of the model, the timings."""
    for table in tables:
        if table.operator != operator:
            continue
        layers = model_spec(table.variant).num_layers
        if first_history:
            table = table.take(table.shapes["history"] == 0)
        columns = np.stack([table.shapes[key] for key in keys], axis=1)
        for values in np.unique(columns, axis=0):
            words = [table.variant, *(f"{key} {value}" for key, value in zip(keys, values, strict=True))]
            yield ", ".join(words), layers, table.take((columns == values).all(axis=1))


def _leave_one_out(groups: Any, seconds: Floats, predict: Callable[..., Floats]) -> Errors:
    """`predict(keep, out)`, two masks, for every group left out in turn."""
    predicted = np.empty(len(seconds))
    for group in np.unique(groups):
        out = groups == group
        predicted[out] = predict(~out, out)
    return errors(predicted, seconds)
