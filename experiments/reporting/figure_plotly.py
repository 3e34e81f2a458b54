"""A figure as what Plotly.js draws in the page; what all figures share stands in page.js."""

from typing import Any

import numpy as np

from servegym.experiments.reporting.figure import MOST_MARKED, Axis, Figure, Series, Values

Json = dict[str, Any]


def as_plotly(figure: Figure) -> Json:
    """Traces and layout, of JSON values; bands and intervals belong to the legend entry of their series."""
    traces: list[Json] = []
    for series, (colour, dash) in zip(figure.series, figure.looks(), strict=True):
        if series.drawn in ("line", "steps") and series.low is not None and series.high is not None:
            traces.append(_band(series, series.low, series.high, colour, figure.band_opacity))
        traces.append(_trace(figure, series, colour, dash))
    layout: Json = {"xaxis": _axis(figure, "x"), "yaxis": _axis(figure, "y")}
    if figure.categories:
        layout |= {"barmode": "group", "xaxis": {**layout["xaxis"], "type": "category"}}
        layout["yaxis"]["rangemode"] = "tozero"
    return {"data": traces, "layout": layout}


def _trace(figure: Figure, series: Series, colour: str, dash: str) -> Json:
    trace: Json = {
        "name": series.name,
        "legendgroup": series.like or series.name,
        "x": series.x if isinstance(series.x, list) else _numbers(series.x),
        "y": _numbers(series.y),
        "hovertemplate": _hover(figure, series),
    }
    if series.low is not None and series.high is not None:
        trace["customdata"] = [
            list(each) for each in zip(*map(_numbers, (series.low, series.high)), strict=True)
        ]
    if series.words:
        trace["text"] = series.words
    if series.drawn == "bars":
        trace |= {"type": "bar", "marker": {"color": colour}, "textposition": "none", **_error_bars(series)}
    elif series.drawn == "points":
        # Many points are drawn by WebGL elsewhere; as SVG they are there without a graphics card too.
        trace |= {
            "type": "scatter",
            "mode": "markers",
            "marker": {"color": colour, "size": 4, "opacity": 0.55},
        }
    elif series.drawn == "marks":
        marker = {"color": colour, "size": 13, "symbol": "diamond-open", "line": {"width": 2.5}}
        trace |= {"type": "scatter", "mode": "markers", "marker": marker}
    else:
        few = series.drawn == "line" and len(series.y) <= MOST_MARKED
        line = {
            "color": colour,
            "dash": dash,
            "width": 1.2 if series.drawn == "rule" else 2,
            "shape": "hv" if series.drawn == "steps" else "linear",
        }
        trace |= {"type": "scatter", "mode": "lines+markers" if few else "lines", "line": line}
        trace["marker"] = {"size": 5, "color": colour}
    return trace


def _band(series: Series, low: Values, high: Values, colour: str, opacity: float) -> Json:
    """The area between the ends of intervals, as far as they are known."""
    known = np.isfinite(low) & np.isfinite(high)
    x, low, high = series.places[known], low[known], high[known]
    if series.drawn == "steps":
        x, low, high = np.repeat(x, 2)[1:], np.repeat(low, 2)[:-1], np.repeat(high, 2)[:-1]
    return {
        "type": "scatter",
        "legendgroup": series.like or series.name,
        "showlegend": False,
        "hoverinfo": "skip",
        "x": _numbers(np.concatenate([x, x[::-1]])),
        "y": _numbers(np.concatenate([high, low[::-1]])),
        "fill": "toself",
        "fillcolor": _faint(colour, opacity),
        "mode": "lines",
        "line": {"width": 0},
    }


def _error_bars(series: Series) -> Json:
    if series.low is None or series.high is None:
        return {}
    up, down = _numbers(series.high - series.y), _numbers(series.y - series.low)
    bars = {"type": "data", "symmetric": False, "array": up, "arrayminus": down}
    return {"error_y": {**bars, "thickness": 1.4, "width": 4, "color": "#333333"}}


def _hover(figure: Figure, series: Series) -> str:
    """What is said beside the mouse: the name, then both values with their units."""
    words = f"<b>{_plain(series.name)}</b>"
    x = "%{x}" if isinstance(series.x, list) else _value("x", figure.x)
    words += f"<br>{_plain(figure.x.title)}: {x}<br>{_plain(figure.y.title)}: {_value('y', figure.y)}"
    if series.low is not None:
        form = ".1%" if figure.y.share else ".4~g"
        words += f"<br>95 % interval: %{{customdata[0]:{form}}} to %{{customdata[1]:{form}}}"
    return words + ("<br>%{text}" if series.words else "") + "<extra></extra>"


def _value(which: str, axis: Axis) -> str:
    return f"%{{{which}:.1%}}" if axis.share else f"%{{{which}:.4~g}} {_plain(axis.unit)}".rstrip()


def _axis(figure: Figure, which: Any) -> Json:
    axis: Axis = getattr(figure, which)
    ticks = figure.ticks(which)
    found: Json = {"title": {"text": _plain(axis.label)}, "type": "log" if ticks else "linear"}
    if not axis.share:
        found |= {"exponentformat": "none", "separatethousands": True}
    if axis.share:
        found["tickformat"] = ".0%"
    if ticks:
        found |= {"tickmode": "array", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    if axis.span is not None:
        found["range"] = list(np.log10(axis.span)) if ticks else list(axis.span)
    return found


def _faint(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity:g})"


def _plain(text: str) -> str:
    """Text as Plotly shows it unchanged: it reads some tags, and %{...}."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "% {")


def _numbers(values: Values) -> list[float | None]:
    """Six digits are more than a screen shows; null is a gap."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]
