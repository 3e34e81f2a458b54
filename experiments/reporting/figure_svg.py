"""A figure as SVG, for a paper: the same bytes for the same figure."""

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
    StrMethodFormatter,
)

from servegym.experiments.evaluation.plots import STYLE
from servegym.experiments.reporting.figure import MOST_MARKED, Axis, Figure, Series

SVG_STYLE: Any = {
    **STYLE,
    "figure.constrained_layout.use": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "servegym",
    "font.size": 9,
}
"""Text stays text. Identifiers come from a fixed salt, so they are the same every time."""

LINES = {"solid": "-", "dash": "--", "dashdot": "-.", "dot": ":"}
WIDTH, HEIGHT = 7.2, 3.6
MOST_IN_LEGEND = 24
"""Series that are named; of more, only the first."""


def as_svg(figure: Figure) -> str:
    """An SVG document of 7.2 inches (two columns of a paper), with its legend on the right."""
    with matplotlib.rc_context(SVG_STYLE):
        canvas = Canvas(figsize=(WIDTH, HEIGHT))
        FigureCanvasSVG(canvas)
        axes = canvas.add_axes((0.1, 0.145, 0.58, 0.76))
        for number, (series, looks) in enumerate(zip(figure.series, figure.looks(), strict=True)):
            _draw(axes, figure, series, looks, number)
        axes.set_title(figure.title)
        _scale(axes, figure, "x")
        _scale(axes, figure, "y")
        _legend(axes)
        text = io.StringIO()
        canvas.savefig(text, format="svg", metadata={"Date": None, "Title": figure.title})
    return text.getvalue()


def _draw(axes: Axes, figure: Figure, series: Series, looks: tuple[str, str], number: int) -> None:
    colour, dash = looks
    if series.drawn == "bars":
        _draw_bars(axes, figure, series, colour, number)
        return
    x, is_steps = series.places, series.drawn == "steps"
    if series.drawn == "points":
        axes.plot(
            x, series.y, ".", color=colour, markersize=2.5, alpha=0.55, label=series.name, rasterized=True
        )
    elif series.drawn == "marks":
        axes.plot(
            x,
            series.y,
            "D",
            color=colour,
            fillstyle="none",
            markersize=7,
            markeredgewidth=1.6,
            label=series.name,
        )
    else:
        style: Any = {"drawstyle": "steps-post"} if is_steps else {"marker": _marker(series)}
        axes.plot(x, series.y, LINES[dash], color=colour, label=series.name, **style)
    if series.drawn in ("line", "steps") and series.low is not None and series.high is not None:
        band: Any = {"step": "post" if is_steps else None, "alpha": figure.band_opacity, "linewidth": 0}
        axes.fill_between(x, series.low, series.high, color=colour, **band)


def _marker(series: Series) -> str:
    """What each value of a line is marked by, if it has few."""
    return "." if series.drawn == "line" and len(series.y) <= MOST_MARKED else ""


def _draw_bars(axes: Axes, figure: Figure, series: Series, colour: str, number: int) -> None:
    assert isinstance(series.x, list)  # bars have names
    categories = figure.categories
    width = 0.8 / len(figure.series)
    places = np.array([categories.index(name) for name in series.x]) - 0.4 + (number + 0.5) * width
    errors = None
    if series.low is not None and series.high is not None:
        errors = np.nan_to_num([series.y - series.low, series.high - series.y])
    style = {"elinewidth": 1.2, "capsize": 2.5, "ecolor": "#333333"}
    axes.bar(places, series.y, width, yerr=errors, color=colour, label=series.name, error_kw=style)
    axes.set_xticks(range(len(categories)), categories)
    axes.grid(axis="x", visible=False)


def _scale(axes: Axes, figure: Figure, which: Any) -> None:
    axis: Axis = getattr(figure, which)
    side = axes.xaxis if which == "x" else axes.yaxis
    side.set_label_text(axis.label)
    ticks = figure.ticks(which)
    if ticks:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        side.set_major_locator(FixedLocator(ticks))
        side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        side.set_minor_locator(NullLocator())
    elif not figure.categories or which == "y":
        side.set_major_locator(MaxNLocator(6))
        side.set_major_formatter(StrMethodFormatter("{x:,g}"))
    if axis.share:
        side.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    if axis.span is not None:
        (axes.set_xlim if which == "x" else axes.set_ylim)(axis.span)


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        shown = [label if len(label) <= 34 else f"{label[:32]}\N{HORIZONTAL ELLIPSIS}" for label in labels]
        first = slice(MOST_IN_LEGEND)
        axes.legend(
            handles[first],
            shown[first],
            loc="upper left",
            bbox_to_anchor=(1.01, 1.02),
            fontsize=8,
            borderpad=0,
        )
