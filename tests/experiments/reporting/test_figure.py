import csv
import io
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest

from servegym.experiments.reporting.figure import Axis, Figure, Series, file_name
from servegym.experiments.reporting.figure_csv import as_csv
from servegym.experiments.reporting.figure_plotly import as_plotly
from servegym.experiments.reporting.figure_svg import as_svg

X = np.array([1.0, 10.0, 100.0])
LINE = Series("jsq & <b>", X, np.array([0.1, 0.5, 1.0]), np.array([0.0, 0.4, 0.9]), np.array([0.2, 0.6, 1.0]))
FIGURE = Figure(
    "a-figure",
    "A title",
    "A caption.",
    Axis("time", "ms", log=True),
    Axis("share of requests", share=True, span=(0, 1)),
    [LINE, Series("other", X, np.array([0.2, np.nan, 0.8]), drawn="steps")],
)
BARS = Figure(
    "bars",
    "Bars",
    "",
    Axis("scenario"),
    Axis("goodput", "requests/s"),
    [
        Series(
            "a",
            ["one", "two"],
            np.array([1.0, 2.0]),
            np.array([0.5, 1.5]),
            np.array([2.0, 3.0]),
            drawn="bars",
        ),
        Series("b", ["two"], np.array([3.0]), drawn="bars"),
    ],
)


def test_a_table_has_a_row_for_each_value_with_units_in_its_heading() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(FIGURE))))
    assert list(rows[0]) == ["series", "time (ms)", "share of requests", "low", "high"]
    assert rows[1] == {
        "series": "jsq & <b>",
        "time (ms)": "10",
        "share of requests": "0.5",
        "low": "0.4",
        "high": "0.6",
    }
    assert rows[4]["share of requests"] == "" and rows[4]["low"] == ""
    assert len(rows) == 6
    assert [row["scenario"] for row in csv.DictReader(io.StringIO(as_csv(BARS)))] == ["one", "two", "two"]


def test_words_beside_values_are_a_column() -> None:
    told = replace(FIGURE, series=[replace(LINE, words=["a", "b", "c"]), FIGURE.series[1]])
    rows = list(csv.DictReader(io.StringIO(as_csv(told))))
    assert [row["note"] for row in rows] == ["a", "b", "c", "", "", ""]


def test_plotly_gets_strict_json_with_a_band_for_the_interval() -> None:
    drawn = json.loads(json.dumps(as_plotly(FIGURE), allow_nan=False))
    band, line, steps = drawn["data"]
    assert band["legendgroup"] == line["legendgroup"] and band["showlegend"] is False
    assert band["x"] == [1, 10, 100, 100, 10, 1] and band["y"] == [0.2, 0.6, 1, 0.9, 0.4, 0]
    assert line["customdata"] == [[0, 0.2], [0.4, 0.6], [0.9, 1]]
    assert "jsq &amp; &lt;b&gt;" in line["hovertemplate"]
    assert steps["line"]["shape"] == "hv" and steps["y"] == [0.2, None, 0.8]
    assert (
        drawn["layout"]["xaxis"]["type"] == "log" and drawn["layout"]["xaxis"]["title"]["text"] == "time (ms)"
    )
    assert drawn["layout"]["yaxis"]["range"] == [0, 1]


def test_bars_have_their_intervals_and_stand_side_by_side() -> None:
    drawn = as_plotly(BARS)
    first, second = drawn["data"]
    assert drawn["layout"]["barmode"] == "group"
    assert first["error_y"]["array"] == [1, 1] and first["error_y"]["arrayminus"] == [0.5, 0.5]
    assert "error_y" not in second and second["x"] == ["two"]


def test_a_mark_has_the_colour_of_its_series_and_leaves_with_it() -> None:
    mark = Series("knee of other", X[:1], X[:1], drawn="marks", like="other")
    figure = replace(FIGURE, series=[*FIGURE.series, mark])
    assert figure.looks()[2] == figure.looks()[1] != figure.looks()[0]
    assert as_plotly(figure)["data"][-1]["legendgroup"] == "other"


def test_more_series_than_colours_differ_in_their_dashes() -> None:
    figure = replace(FIGURE, series=[Series(str(i), X, X) for i in range(20)])
    assert len(set(figure.looks())) == 20


@pytest.mark.parametrize("figure", [FIGURE, BARS], ids=["lines", "bars"])
def test_svg_is_the_same_every_time_and_holds_its_words(figure: Figure) -> None:
    text = as_svg(figure)
    assert as_svg(figure) == text
    words = {"".join(element.itertext()).strip() for element in ElementTree.fromstring(text).iter()}
    assert {figure.title, figure.x.label, figure.y.label, *(each.name for each in figure.series)} <= words
    assert "date>" not in text


def test_logarithms_only_where_they_are_of_use() -> None:
    def ticks(*values: float) -> list[float] | None:
        return replace(FIGURE, series=[Series("a", np.array(values), np.array(values))]).ticks("x")

    assert ticks(1, 100) == [1, 2, 5, 10, 20, 50, 100, 200, 500][:9]
    assert ticks(0, 100) is None  # zero has no logarithm
    assert ticks(10, 12) is None
    assert ticks(1, 1e6) == [1, 10, 100, 1e3, 1e4, 1e5, 1e6]
    assert FIGURE.ticks("y") is None


def test_names_of_files() -> None:
    assert file_name("P99 TTFT", "a/b: x=1.5") == "p99-ttft-a-b-x-1.5"
