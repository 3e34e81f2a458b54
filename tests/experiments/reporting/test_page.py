"""The page in a real browser, which has no network and must report no error."""

import csv
import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from servegym.experiments.report import sections_of
from servegym.experiments.reporting.page import PAGE_FILE, write_report
from tests.experiments.reporting.folders import the_runs, write_simulation, write_training

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulations at four rates under two routers, training runs, and one run that is not finished."""
    folder = tmp_path_factory.mktemp("report")
    for rate, slowness in ((10, 1.0), (20, 1.1), (30, 1.2), (40, 9.0)):
        for router in ("jsq", "<sal> & co"):
            name = f"runs/{'jsq' if router == 'jsq' else 'sal'}{rate}"
            write_simulation(folder / name, router=router, rate_rps=rate, slowness=slowness)
    for seed in range(9):
        write_training(folder / f"runs/train{seed}", seed=seed, slope=1 + seed)
    (write_training(folder / "runs/unfinished") / "finished.json").unlink()
    write(folder / "report", folder / "runs")
    return folder / "report"


def write(out: Path, runs: Path) -> None:
    out.mkdir()
    _, sections = sections_of(the_runs(runs))
    write_report(out, "A <title> & more", ["An <introduction>."], sections)


@pytest.fixture
def page(browser_page: "Page", report: Path) -> "Page":
    """The report, loaded."""
    browser_page.goto((report / PAGE_FILE).as_uri())
    return browser_page


def shown_rows(table: "Locator") -> int:
    return table.locator("tbody tr:visible").count()


def figure(page: "Page", title: str) -> "Locator":
    """A visible figure, scrolled to and drawn."""
    found = page.locator("figure:visible").filter(has_text=title).first
    found.scroll_into_view_if_needed()
    found.locator(".main-svg").first.wait_for()
    return found


def wait_for_traces(page: "Page", found: "Locator", number: int) -> None:
    """Until so many series are drawn."""
    counted = "([figure, n]) => figure.querySelectorAll('.scatterlayer .trace').length === n"
    page.wait_for_function(counted, arg=[found.element_handle(), number])


def test_all_is_said_and_tables_are_filtered_and_sorted(page: "Page") -> None:
    assert page.inner_text("h1") == "A <title> & more"
    assert "An <introduction>." in page.inner_text("header")
    assert page.locator("h2").all_inner_texts() == [
        "Contents",
        "Simulations",
        "Latency against load",
        "Learning curves",
        "Runs side by side",
        "Runs left out",
        "Reproduction",
    ]
    targets = page.eval_on_selector_all("nav a", "links => links.map(link => link.hash.slice(1))")
    there = page.eval_on_selector_all("[id]", "all => all.map(each => each.id)")
    assert len(targets) > 10 and all(there.count(target) == 1 for target in targets)
    assert "lacks finished.json" in page.inner_text("main")
    assert "servegym train seed=0" in page.inner_text("main pre")

    results = page.locator(".table").filter(has_text="Results of simulations")
    assert shown_rows(results) == 8
    results.locator("input").fill("jsq 30")
    assert shown_rows(results) == 1
    assert results.locator("output").inner_text() == "1 of 8 rows"
    results.locator("input").fill("")
    results.get_by_label("policy").select_option("<sal> & co")
    assert results.locator("tbody tr:visible td:nth-child(2)").all_inner_texts() == ["<sal> & co"] * 4

    runs = page.locator(".table").filter(has=page.locator("h3", has_text="Training runs"))
    headings = runs.locator("thead button").all_inner_texts()
    column = headings.index("mean return")

    def values() -> list[float]:
        cells = runs.locator(f"tbody td:nth-child({column + 1})").all_inner_texts()
        return [float(cell.replace(",", "")) for cell in cells]

    runs.locator("thead button").nth(column).click()
    assert values() == sorted(values()) and len(values()) == 9
    runs.locator("thead button").nth(column).click()
    assert values() == sorted(values(), reverse=True)
    assert runs.locator("th[aria-sort=descending]").count() == 1


def test_figures_are_drawn_in_view_tell_values_and_follow_legend_and_choice(page: "Page") -> None:
    drawn = page.locator("figure[data-drawn]")
    before = drawn.count()
    found = figure(page, "Latency against load")
    assert drawn.count() > before
    assert "mean TTFT (ms)" in (found.locator(".ytitle").text_content() or "")
    found.locator(".scatterlayer .point").first.hover(force=True)
    found.locator(".hovertext").wait_for()
    label = found.locator(".hoverlayer").text_content() or ""
    assert "arrival rate: 10 requests/s" in label and "configured rate 10" in label

    traces = found.locator(".scatterlayer .trace")
    everything = traces.count()
    entry = found.locator(".legendtoggle").first
    entry.click()
    wait_for_traces(page, found, everything - 2)  # a curve and its knee
    page.wait_for_timeout(400)  # two clicks at once are another command
    entry.click()
    wait_for_traces(page, found, everything)

    choice = page.locator(".choice").filter(has_text="Learning curves")
    figure(page, "Learning curves")
    choice.locator("select").select_option(label="mean TTFT")
    chosen = choice.locator("figure:visible")
    chosen.locator(".main-svg").first.wait_for()
    assert chosen.count() == 1 and "mean TTFT (ms)" in (chosen.locator(".ytitle").text_content() or "")
    assert chosen.locator(".legendtext").all_text_contents() == ["ppo mlp (9 seeds)"]


def test_figures_are_downloaded_from_the_page_and_it_fits_a_narrow_window(page: "Page", report: Path) -> None:
    page.set_viewport_size({"width": 400, "height": 700})
    found = figure(page, "Latency against load")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    texts = {}
    for kind in ("SVG", "CSV"):
        with page.expect_download() as download:
            found.get_by_role("link", name=kind).click()
        texts[kind] = Path(download.value.path()).read_text()
        assert texts[kind] == (report / "figures" / download.value.suggested_filename).read_text()
    assert ElementTree.fromstring(texts["SVG"]).tag.endswith("svg")
    assert {row["series"] for row in csv.DictReader(io.StringIO(texts["CSV"]))} >= {"jsq", "<sal> & co"}


def test_every_figure_has_both_files_and_the_page_asks_for_no_other(report: Path) -> None:
    text = (report / PAGE_FILE).read_text()
    names = re.findall(r'data-figure="([^"]+)"', text)
    assert len(names) == len(set(names)) > 10
    assert {path.name for path in (report / "figures").iterdir()} == {
        f"{name}.{ending}" for name in names for ending in ("svg", "csv")
    }
    assert text.count("plotly.js v") == 1
    assert not re.search(r'<(?:script|img|link)[^>]+(?:src|href)="(?!data:)', text)


def test_the_same_runs_make_the_same_page(report: Path, tmp_path: Path) -> None:
    write(tmp_path / "again", report.parent / "runs")
    assert (tmp_path / "again" / PAGE_FILE).read_bytes() == (report / PAGE_FILE).read_bytes()
