"""A figure as a table: a row for each value."""

import csv
import io
import math

from servegym.experiments.reporting.figure import Figure


def as_csv(figure: Figure) -> str:
    """Columns: series, the two axes with their units, ends of intervals, and words if any series has them.

    Shares stay in [0, 1]; nothing stands where there is no value.
    """
    has_words = any(each.words for each in figure.series)
    heading = ["series", figure.x.label, figure.y.label, "low", "high"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*heading, "note"] if has_words else heading)
    for series in figure.series:
        for i, value in enumerate(series.y):
            place = series.x[i]
            row = [series.name, place if isinstance(place, str) else _number(place), _number(value)]
            row += ["" if ends is None else _number(ends[i]) for ends in (series.low, series.high)]
            if has_words:
                row.append(series.words[i] if series.words else "")
            writer.writerow(row)
    return text.getvalue()


def _number(value: float) -> str:
    return f"{value:.8g}" if math.isfinite(value) else ""
