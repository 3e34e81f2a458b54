"""What the page counts by binary search is what counting one by one gives."""

from importlib import resources
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture
def scripts(browser_page: "Page") -> "Page":
    """A page with the functions of series.js and lanes.js."""
    for name in ("series.js", "lanes.js"):
        path = resources.files("servegym.experiments.replay_page").joinpath(name)
        browser_page.add_script_tag(content=path.read_text())
    browser_page.evaluate("KINDS = 1")
    return browser_page


def of(page: "Page", expression: str, **values: Any) -> Any:
    """A JavaScript expression in which the values are arrays of floats."""
    lists = {name: np.asarray(value).tolist() for name, value in values.items()}
    floats = ", ".join(f"{name} = Float64Array.from(given.{name})" for name in values)
    return page.evaluate(f"(given) => {{ const {floats}; return {expression}; }}", lists)


def test_averages_and_counts_of_intervals(scripts: "Page") -> None:
    rng = np.random.default_rng(0)
    starts = rng.integers(0, 100, 200) / 4  # many begin and end together
    ends = starts + rng.integers(1, 40, 200) / 4
    edges = np.array([-3.0, -1, 0, 0.125, 5, 5.25, 13, 22, 60, 61])
    inside = np.clip(np.minimum(ends, edges[1:, None]) - np.maximum(starts, edges[:-1, None]), 0, None)
    means = of(
        scripts,
        "(() => { const means = new Float64Array(edges.length - 1);"
        " new Occupancy(starts, ends).averages(edges, means); return [...means] })()",
        starts=starts,
        ends=ends,
        edges=edges,
    )
    np.testing.assert_allclose(means, inside.sum(axis=1) / np.diff(edges), atol=1e-9)

    instants = np.arange(-1, 40, 0.125)
    present = ((starts <= instants[:, None]) & (instants[:, None] < ends)).sum(axis=1)
    for kind in ("", ".steps()"):
        counted = of(
            scripts,
            f"(() => {{ const it = new Occupancy(starts, ends){kind};"
            " return [...instants].map((t) => it.at(t)) })()",
            starts=starts,
            ends=ends,
            instants=instants,
        )
        assert counted == present.tolist()
    overlapping = of(scripts, "new Occupancy(starts, ends).overlapping(5, 6)", starts=starts, ends=ends)
    assert overlapping == ((starts <= 6) & (ends > 5)).sum()


def test_extremes_of_steps(scripts: "Page") -> None:
    rng = np.random.default_rng(1)
    time, values = np.cumsum(rng.integers(1, 5, 300) / 8), rng.integers(0, 50, 300)
    edges = np.sort(np.concatenate([[-2, 0, time[10], time[10] + 1e-3], rng.uniform(0, time[-1] + 5, 30)]))
    low, high = of(
        scripts,
        "(() => { const low = new Float64Array(edges.length - 1), high = low.slice();"
        " new Steps(time, values).extremes(edges, low, high); return [[...low], [...high]] })()",
        time=time,
        values=values,
        edges=edges,
    )
    for column, (begin, end) in enumerate(pairwise(edges)):
        within = values[(time >= begin) & (time < end)].tolist()
        before = np.searchsorted(time, begin, side="right") - 1
        within.append(0 if before < 0 else int(values[before]))
        assert (low[column], high[column]) == (min(within), max(within))


def test_no_two_requests_share_a_row_at_a_time(scripts: "Page") -> None:
    rng = np.random.default_rng(2)
    start = np.sort(rng.integers(0, 200, 300) / 4)
    end = start + rng.integers(1, 60, 300) / 4
    rows = of(
        scripts,
        "[...Lane.prototype.rows.call({ row: null, start, end })]",
        start=start,
        end=end,
    )
    most = max(((start <= t) & (t < end)).sum() for t in start)
    assert max(rows) + 1 == most  # no more rows than needed
    for row in range(most):
        mine = [at for at in range(300) if rows[at] == row]
        assert (end[mine][:-1] <= start[mine][1:]).all()
