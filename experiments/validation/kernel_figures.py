"""The figures of `servegym validate kernels`: predicted against measured, and the error by shape."""

import re
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from servegym.costmodels.errors import InputError
from servegym.costmodels.kernels.schema import KernelTimings
from servegym.costmodels.operators.validation import REGIONS
from servegym.costmodels.operators.work import Floats
from servegym.experiments.evaluation.plots import COLOURS, STYLE

MOST_POINTS = 4000


def write_figures(
    folder: Path, predictions: Mapping[str, tuple[KernelTimings, Mapping[str, Floats]]]
) -> list[str]:
    """One PNG for each table, by its name; the paths written. Creates `folder`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out = {folder}: must be a folder ({error.strerror})") from error
    written = []
    for label, (timings, predicted) in predictions.items():
        path = folder / f"{re.sub(r'[^a-z0-9]+', '_', label.lower())}.png"
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(11, 4.4))
            left, right = figure.subplots(1, 2)
            _predicted_against_measured(left, timings, predicted)
            _error_by_shape(right, timings, predicted)
            figure.suptitle(f"{label}, {timings.device}: shape groups left out whole")
            figure.savefig(path)
        written.append(str(path))
    return written


def _predicted_against_measured(axes: Axes, timings: KernelTimings, predicted: Mapping[str, Floats]) -> None:
    few = np.random.default_rng(0).permutation(len(timings))[:MOST_POINTS]
    for (model, seconds), colour in zip(predicted.items(), COLOURS, strict=False):
        axes.loglog(
            timings.seconds[few] * 1e3,
            seconds[few] * 1e3,
            ".",
            color=colour,
            markersize=2,
            alpha=0.5,
            label=model,
        )
    ends = [timings.seconds.min() * 1e3, timings.seconds.max() * 1e3]
    axes.plot(ends, ends, color="#000000", linewidth=0.8)
    axes.set(xlabel="measured, ms", ylabel="predicted, ms", title="Predicted against measured")
    axes.legend(markerscale=6)


def _error_by_shape(axes: Axes, timings: KernelTimings, predicted: Mapping[str, Floats]) -> None:
    """Mean absolute error at each value of the dimension that parts the regions."""
    name = REGIONS[timings.operator][0] if timings.operator in REGIONS else next(iter(timings.shapes))
    values, index = np.unique(timings.shapes[name], return_inverse=True)
    for (model, seconds), colour in zip(predicted.items(), COLOURS, strict=False):
        error = np.abs(seconds / timings.seconds - 1)
        mean = np.bincount(index.ravel(), error) / np.bincount(index.ravel())
        axes.plot(values, mean, ".-", color=colour, label=model)
    axes.set(xscale="symlog", ylim=(0, None), xlabel=name, title="Mean absolute error by shape")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
