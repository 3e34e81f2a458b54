"""The page stands alone and tells a stranger what was run and what was found; so do the tables."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from servegym.envs.scenario import Scenario, load_scenario
from servegym.experiments.evaluation.plots import PLOTS, draw_plots
from servegym.experiments.evaluation.report import Report, write_report
from servegym.experiments.evaluation.tables import DASH, MINUS, UNITS, percent, tables
from tests.experiments.toy_evaluation import toy_evaluation

COMMAND = "servegym evaluate 'policies=[jsq,<run>]'"


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load_scenario("generated_8xh100")


@pytest.fixture(scope="module")
def page(scenario: Scenario, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    evaluation = toy_evaluation(round_robin=2.0, jsq=2.0, **{"<run>": 1.0})
    descriptions = {"round_robin": "published", "jsq": "published", "<run>": "ppo_gnn, trained"}
    captions = draw_plots(evaluation, ["<run>"], 8, folder)
    report = Report(scenario, evaluation, descriptions, ["<run>"], COMMAND, {"servegym": "9.8.7"})
    write_report(report, captions, folder)
    return (folder / "report.html").read_text()


class Tags(HTMLParser):
    """All tags with their attributes, the text, and a check that what is opened is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_needs_nothing_from_elsewhere(page: str) -> None:
    parsed = Tags(page)
    assert parsed.open == []
    assert not {"script", "link", "iframe"} & {tag for tag, _ in parsed.tags}
    assert "href" not in page
    assert not re.search(r"https?://|url\(|@import", page)
    sources = [attributes["src"] for tag, attributes in parsed.tags if tag == "img"]
    assert len(sources) == len(PLOTS)
    for source in sources:
        kind, _, data = str(source).partition(",")
        assert kind == "data:image/png;base64"
        assert imread(BytesIO(base64.b64decode(data))).shape[1] == 1440


def test_page_tells_what_was_run_and_found(page: str) -> None:
    text = " ".join(Tags(page).text.split())
    for fact in (
        "generated_8xh100",
        "generator fitted to azure_conv_2023",
        "they share none",
        "Seeds0, 1, 2, 3, 4",
        "40 requests per seed",
        "Replicas8",
        "<run> (ppo_gnn, trained)",
        f"<run> against round_robin: mean TTFT {MINUS}50.0 % ({MINUS}50.0 to {MINUS}50.0), better",
        "<run> against jsq",
        COMMAND,
        "servegym 9.8.7",
    ):
        assert fact in text


def test_page_says_where_a_trace_is_cut(scenario: Scenario, tmp_path: Path) -> None:
    scenario = load_scenario(
        "generated_8xh100", ("scenario.workload.test_s=600", "scenario.workload.keep=0.8")
    )
    scenario.traffic.source = "trace somewhere.csv"
    evaluation = toy_evaluation(jsq=1.0)
    write_report(Report(scenario, evaluation, {"jsq": "published"}, [], COMMAND, {}), {}, tmp_path)
    text = " ".join(Tags((tmp_path / "report.html").read_text()).text.split())
    assert "last 600 s of the trace" in text
    assert "another 80 %" in text


def test_tables_on_a_terminal() -> None:
    evaluation = toy_evaluation(slow=2.0, fast=1.0, also_slow=2.0)
    console = Console(width=118, record=True, file=None, quiet=False)
    with console.capture() as capture:
        for table in tables(evaluation.findings()):
            console.print(table.as_rich())
    text = capture.get()
    best = UNITS["mean_ttft_s"].show(evaluation.estimates["fast"]["mean_ttft_s"].iqm)
    assert f"* {best}" in text
    assert "seeds are few" not in text
    assert f"{MINUS}50.0 %" in text
    rows = {
        line.split()[1]: line.split()[2:]
        for line in text.partition("Wins")[2].splitlines()
        if line[2:3].isdigit()
    }
    assert rows["fast"] == ["+", "+", "·", "+", "+"]
    assert rows["slow"] == ["·", MINUS, MINUS, "=", "="]


def test_one_policy_has_nothing_to_be_compared_with() -> None:
    (table,) = tables(toy_evaluation(only=1.0).findings())
    assert [name for name, _ in table.rows] == ["only"]
    assert {cell.style for cell in table.rows[0][1]} == {""}


def test_few_seeds_are_owned_up_to() -> None:
    findings = toy_evaluation(only=1.0).findings() | {"seeds": [0, 1, 2, 3]}
    assert "4 seeds are few" in tables(findings)[0].caption


def test_units_and_numbers_that_are_none() -> None:
    assert UNITS["mean_ttft_s"].show(1.23456) == "1,234.6"
    assert UNITS["mean_ttft_s"].show(float("nan")) == DASH
    assert percent(0.1234) == "+12.3 %"
    assert percent(float(np.nan)) == DASH
