"""The error of kernel models against timings they have not seen."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servegym.costmodels.kernels.schema import KernelTimings
from servegym.costmodels.operators.kernel_model import KernelModel
from servegym.costmodels.operators.layouts import LAYOUTS
from servegym.costmodels.operators.work import Floats

REGIONS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "gemm": ("m", (16, 128, 1024)),
    "prefill_attention": ("tokens", (64, 1024)),
    "decode_attention": ("history", (127, 2047)),
    "moe": ("tokens", (16, 256)),
    "all_reduce": ("bytes", (2**16, 2**22)),
}
"""By operator: the dimension that parts its shapes, and the last value of each part but the last."""


@dataclass(frozen=True)
class Errors:
    """Of predictions p against measurements t: relative, (p - t) / t."""

    rows: int
    mape: float
    """Mean absolute percentage error, as a share."""
    p50: float
    p90: float
    max: float
    bias: float
    """Mean signed error."""


def errors(predicted_s: Floats, measured_s: Floats) -> Errors:
    """Of N predictions; N at least 1."""
    signed = predicted_s / measured_s - 1
    size = np.abs(signed)
    p50, p90 = np.quantile(size, (0.5, 0.9))
    return Errors(
        len(size), float(size.mean()), float(p50), float(p90), float(size.max()), float(signed.mean())
    )


def predict(model: KernelModel, timings: KernelTimings) -> Floats:
    """What `model` says of the shapes of `timings`."""
    return model.seconds(
        timings.operator,
        timings.shapes,
        dtype=timings.dtype,
        kv_dtype=timings.kv_dtype,
        variant=timings.variant,
    )


def folds(timings: KernelTimings, count: int, seed: int = 0) -> Iterator[npt.NDArray[np.bool_]]:
    """`count` masks, each True on what is left out. Configurations (`Layout.group`: GEMM n and k; attention
    heads, KV heads and head dimension; collectives the message size) are left out whole, dealt at random.
    """
    group = LAYOUTS[timings.operator].groups(timings)
    dealt = np.random.default_rng(seed).permutation(int(group.max()) + 1) % count
    for fold in range(count):
        left_out = dealt[group] == fold
        if left_out.any() and not left_out.all():
            yield left_out


def predict_left_out(
    fit: Callable[[KernelTimings, KernelTimings], KernelModel],
    timings: KernelTimings,
    count: int,
    seed: int = 0,
) -> Floats:
    """For each timing what a model says of it that was fitted to the other folds.

    `fit(train, left_out)` gives the model; of `left_out` it may look at the shapes.
    """
    predicted = np.full(len(timings), np.nan)
    for left_out in folds(timings, count, seed):
        test = timings.take(left_out)
        predicted[left_out] = predict(fit(timings.take(~left_out), test), test)
    return predicted


def regions(timings: KernelTimings) -> dict[str, npt.NDArray[np.bool_]]:
    """Masks of the shape regions of the operator (REGIONS) by name, such as "m 17 to 128"; empty ones are
    left out.
    """
    if timings.operator not in REGIONS:
        return {}
    name, lasts = REGIONS[timings.operator]
    values = timings.shapes[name]
    masks = {}
    for first, last in zip((0, *(last + 1 for last in lasts)), (*lasts, None), strict=True):
        label = f"{name} {first} and more" if last is None else f"{name} {first} to {last}"
        mask = (values >= first) if last is None else (values >= first) & (values <= last)
        if mask.any():
            masks[label if first else f"{name} up to {last}"] = mask
    return masks


def worst_groups(timings: KernelTimings, predicted_s: Floats, count: int = 3) -> list[tuple[str, float]]:
    """The configurations with the largest mean absolute error, and that error."""
    layout = LAYOUTS[timings.operator]
    group = layout.groups(timings)
    error = np.abs(predicted_s / timings.seconds - 1)
    mean = np.bincount(group, error) / np.bincount(group)
    worst = []
    for each in np.argsort(-mean)[:count]:
        row = int(np.argmax(group == each))
        worst.append(
            (", ".join(f"{name} {timings.shapes[name][row]}" for name in layout.group), float(mean[each]))
        )
    return worst
