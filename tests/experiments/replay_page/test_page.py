"""The page in a real browser: what it shows, and what the pointer, the keys and the filters do."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from servegym.envs.sim.llm.log import IterationLog
from servegym.experiments.cli import main
from tests.experiments.commands import SMALL_SCENARIO, answer_of

if TYPE_CHECKING:
    from playwright.sync_api import Page

PREEMPTING = (
    *SMALL_SCENARIO,
    "router=random",
    "seed=3",
    "scenario.engine.num_kv_blocks=900",
    "scenario.workload.test_s=60",
)
APART = (
    *SMALL_SCENARIO,
    "router=random",
    "scenario.fleet.replicas=null",
    "scenario.fleet.pools=[{replicas:2,role:prefill},{replicas:2,role:decode}]",
    "scenario.fleet.link_bytes_per_s=1e10",
)


class Replay:
    """A page of an episode in the browser, and the tables that it is made from."""

    def __init__(self, page: "Page", folder: Path) -> None:
        self.page = page
        self.table = pq.read_table(folder / "requests.parquet").to_pydict()
        page.goto((folder / "replay.html").absolute().as_uri())
        page.wait_for_selector("body.ready", state="attached", timeout=60_000)

    def __getitem__(self, name: str) -> Any:
        return self.page.evaluate(f"replay.{name}")

    def text(self, selector: str) -> str:
        return self.page.inner_text(selector)

    @property
    def range(self) -> tuple[float, float]:
        return self["from_s"], self["to_s"]

    def settle(self) -> None:
        """Until what is due is drawn, the table included."""
        self.page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 250)))")

    def numbers(self, column: str) -> np.ndarray:
        return np.array(self.table[column], float)

    def hover(self, request: int) -> None:
        place = self[f"place({request})"]
        assert place is not None, "it has no bar"
        self.page.mouse.move(place["x"], place["y"])

    def filter(self, field: str, value: str) -> None:
        if self.page.evaluate(f"document.getElementById('{field}').tagName") == "SELECT":
            self.page.select_option(f"#{field}", label=value)
        else:
            self.page.fill(f"#{field}", value)
        self.page.wait_for_timeout(300)
        self.settle()


def replayed(capsys: pytest.CaptureFixture[str], page: "Page", *words: str) -> Replay:
    """Simulates, replays and opens."""
    answer_of(capsys, "simulate", *words, "out=run")
    answer = answer_of(capsys, "replay", "run")
    assert answer["page"] == "run/replay.html"
    return Replay(page, Path("run"))


@pytest.fixture(scope="module")
def preempting_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a simulation in which requests are preempted, its page and its log."""
    run = tmp_path_factory.mktemp("run") / "run"
    assert main(["simulate", *PREEMPTING, f"out={run}"]) == 0
    assert main(["replay", str(run), f"log={run}/log.npz"]) == 0
    return run


@pytest.fixture
def preempting(preempting_run: Path, browser_page: "Page") -> Replay:
    return Replay(browser_page, preempting_run)


def test_title_legend_and_count(preempting: Replay):
    count = len(preempting.table["arrival_s"])
    assert preempting.text("h1") == "random on generated_8xh100"
    assert preempting.page.title() == "random on generated_8xh100, seed 3"
    facts = preempting.text("#facts")
    assert f"seed 3 · {count} requests · 2 replicas" in facts
    legend = preempting.text("#legend").split("\n")
    assert legend == ["waiting", "prefill", "decode", "waiting again"]
    assert preempting.text("#count") == f"{count} of {count} shown"
    assert f"{count} requests" in preempting.text("#range")


def test_wheel_drag_keys_and_double_click_change_the_visible_range(preempting: Replay):
    page = preempting.page
    all_of_it = preempting.range
    assert all_of_it[0] == 0 and all_of_it[1] > preempting.numbers("finish_s").max()
    assert preempting.text("#range").startswith(f"0.00 s to {all_of_it[1]:.2f} s (")

    place = page.locator("#scroller").bounding_box()
    assert place is not None
    x, y = place["x"] + 500, place["y"] + 60
    under = all_of_it[1] * (500 - 104) / (place["width"] - 104)
    page.mouse.move(x, y)
    page.mouse.wheel(0, -400)
    preempting.settle()
    zoomed = preempting.range
    assert zoomed[1] - zoomed[0] == pytest.approx(all_of_it[1] / 1.0015**400)
    assert (under - zoomed[0]) / (zoomed[1] - zoomed[0]) == pytest.approx(under / all_of_it[1], rel=0.05)
    assert preempting.text("#range").startswith(f"{zoomed[0]:.2f} s to {zoomed[1]:.2f} s (")

    page.mouse.down()
    page.mouse.move(x - 100, y, steps=4)
    page.mouse.up()
    preempting.settle()
    panned = preempting.range
    shift = (zoomed[1] - zoomed[0]) * 100 / (place["width"] - 104)
    assert panned == pytest.approx((zoomed[0] + shift, zoomed[1] + shift), rel=0.02)
    assert preempting["pinned"] is None  # a drag is no click

    page.mouse.dblclick(x, y)
    assert preempting.range == pytest.approx(all_of_it)
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("+")
    zoomed = preempting.range
    assert zoomed[1] - zoomed[0] == pytest.approx(all_of_it[1] / 2.25)
    page.keyboard.press("ArrowRight")
    assert preempting.range[0] == pytest.approx(zoomed[0] + (zoomed[1] - zoomed[0]) / 10)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("-")
    assert preempting.range[1] - preempting.range[0] == pytest.approx(all_of_it[1] / 1.5)
    page.keyboard.press("Home")
    assert preempting.range == pytest.approx(all_of_it)

    page.keyboard.press("ArrowUp")
    page.mouse.click(place["x"] + place["width"] - 2, place["y"] - 40)  # at the end of the strip
    assert preempting.range[1] == pytest.approx(all_of_it[1])
    assert preempting.range[0] == pytest.approx(all_of_it[1] / 3)


def test_lanes_can_be_higher_than_there_is_room_and_scroll(preempting: Replay):
    page, count = preempting.page, len(preempting.table["replica"])
    assert preempting["bars"] == count
    page.focus("#lane-height")
    page.keyboard.press("End")
    preempting.settle()
    second = int(np.argmax(preempting.numbers("replica") == 1))
    assert preempting[f"place({second})"]["y"] > 600  # its lane begins below the first, 600 pixels high
    page.mouse.move(500, 400)
    page.keyboard.down("Shift")
    page.mouse.wheel(0, 2000)
    page.keyboard.up("Shift")
    preempting.settle()
    assert preempting.range[0] == 0  # not zoomed
    lanes = page.locator("#scroller").bounding_box()
    assert lanes is not None
    assert lanes["y"] < preempting[f"place({second})"]["y"] < lanes["y"] + lanes["height"]
    preempting.hover(second)
    assert preempting.text("#tip").startswith(f"Request {second}\n")


def test_a_request_tells_its_life_under_the_pointer_and_stays_when_clicked(preempting: Replay):
    page, table = preempting.page, preempting.table
    request = int(np.argmax(preempting.numbers("preemptions")))
    assert table["preemptions"][request] > 0
    preempting.filter("replica", f"replica {table['replica'][request]}")
    preempting.hover(request)
    tip = preempting.text("#tip")
    assert tip.startswith(f"Request {request}")
    told = dict(zip(*[iter(re.split(r"\n+", tip)[1:])] * 2, strict=True))
    assert told["arrival"] == f"{table['arrival_s'][request]:.3f} s"
    assert told["replica"] == f"replica {table['replica'][request]}"
    assert told["scheduled"] == f"{table['scheduled_s'][request]:.3f} s"
    assert told["first token"] == f"{table['first_token_s'][request]:.3f} s"
    assert told["finish"] == f"{table['finish_s'][request]:.3f} s"
    assert told["prompt"] == f"{table['prompt_tokens'][request]:,} tokens"
    assert told["output"] == f"{table['output_tokens'][request]:,} tokens"
    assert told["latency"] == f"{table['latency_s'][request]:.2f} s"
    assert told["preemptions"] == str(table["preemptions"][request])
    assert told["outcome"] == "finished" and told["objective"] in ("met", "missed")

    page.mouse.down()
    page.mouse.up()
    assert preempting["pinned"] == request
    page.mouse.move(640, 20)  # away from the lanes
    assert not page.is_visible("#tip")
    assert preempting.text("#pinned h3") == f"Request {request}"
    assert "waiting again" in preempting.text("#pinned ol")
    page.keyboard.press("Escape")
    assert preempting["pinned"] is None
    assert "Click a request" in preempting.text("#pinned")


def test_filters(preempting: Replay):
    latency, ttft = preempting.numbers("latency_s"), preempting.numbers("ttft_s")
    prompt, replica = preempting.numbers("prompt_tokens"), preempting.numbers("replica")
    count = len(latency)

    def shown(expected: np.ndarray) -> None:
        assert 0 < expected.sum() < count
        assert preempting.text("#count") == f"{expected.sum()} of {count} shown"
        assert preempting["shown"] == expected.sum()

    preempting.filter("least-latency", "2.5")
    shown(latency >= 2.5)
    preempting.filter("least-ttft", "0.1")
    shown((latency >= 2.5) & (ttft >= 0.1))
    preempting.page.click("#reset-filters")
    assert preempting["shown"] == count
    median = int(np.median(prompt))
    preempting.filter("fewest-prompt", str(median))
    shown(prompt >= median)
    preempting.filter("most-prompt", str(2 * median))
    shown((prompt >= median) & (prompt <= 2 * median))
    preempting.page.click("#reset-filters")
    preempting.filter("happened", "preempted")
    shown(preempting.numbers("preemptions") > 0)
    preempting.filter("replica", "replica 1")
    shown((preempting.numbers("preemptions") > 0) & (replica == 1))
    preempting.filter("happened", "any")
    shown(replica == 1)
    assert preempting["bars"] == (replica == 1).sum()


def test_the_slowest_and_the_one_searched_for(preempting: Replay):
    page, latency, ttft = preempting.page, preempting.numbers("latency_s"), preempting.numbers("ttft_s")
    preempting.settle()

    def listed() -> list[int]:
        return [int(row.split("\t")[0][1:]) for row in page.locator("#slowest tbody tr").all_inner_texts()]

    assert listed() == np.argsort(-latency, kind="stable")[:12].tolist()
    page.click("#slowest button[value=ttft]")
    assert listed() == np.argsort(-ttft, kind="stable")[:12].tolist()
    slowest = listed()[0]
    page.click("#slowest tbody tr")
    preempting.settle()
    assert preempting["pinned"] == slowest
    from_s, to_s = preempting.range
    arrival, finish = preempting.numbers("arrival_s"), preempting.numbers("finish_s")
    assert from_s < arrival[slowest] or from_s == 0
    assert finish[slowest] < to_s
    there = (arrival <= to_s) & (finish >= from_s)
    assert listed() == [i for i in np.argsort(-ttft, kind="stable") if there[i]][:12]

    page.fill("#find", "7")
    page.keyboard.press("Enter")
    assert preempting["pinned"] == 7
    assert preempting.text("#pinned h3") == "Request 7"
    assert preempting.range[1] > finish[7]
    page.fill("#find", str(len(finish)))
    page.keyboard.press("Enter")
    assert page.locator("#find:invalid").count() == 1  # there is no such request
    assert preempting["pinned"] == 7


def test_queues_and_kv_use_are_those_of_the_simulation(preempting_run: Path, preempting: Replay):
    log = IterationLog.load(preempting_run / "log.npz")
    for at in range(0, len(log.iterations), 100):
        iteration = log.iterations[at]
        middle_s = (iteration["start_s"] + iteration["end_s"]) / 2
        assert preempting[f"kvBlocks({iteration['replica']}, {middle_s})"] == iteration["kv_used_blocks"]
    arrival, scheduled = preempting.numbers("arrival_s"), preempting.numbers("scheduled_s")
    replica = preempting.numbers("replica")
    never_preempted_by = log.preemptions["time_s"].min()
    for time_s in np.linspace(0.1, never_preempted_by - 1e-3, 7):
        waiting = (arrival <= time_s) & (time_s < scheduled)
        for each in (0, 1):
            assert preempting[f"queue({each}, {time_s})"] == (waiting & (replica == each)).sum()

    page = preempting.page
    place = page.locator("#scroller").bounding_box()
    assert place is not None
    page.mouse.move(place["x"] + 400, place["y"] + 40)
    tip = preempting.text("#tip")
    assert tip.startswith(("replica 0 at ", "Request "))


def test_prefill_and_decode_apart(folder: Path, capsys: pytest.CaptureFixture[str], browser_page: "Page"):
    replay = replayed(capsys, browser_page, *APART)
    assert replay.text("#legend").split("\n") == ["waiting", "prefill", "decode", "moving"]
    phases = replay["course(5)"]
    assert [phase.split()[0] for phase in phases][-3:] == ["prefill", "moving", "decode"]
    assert "(prefill)" in phases[-3] and "(decode)" in phases[-1]
    place = browser_page.locator("#scroller").bounding_box()
    assert place is not None
    browser_page.mouse.click(place["x"] + 30, place["y"] + place["height"] - 30)  # the name of the last
    assert browser_page.evaluate("document.getElementById('replica').value") == "3"
    assert replay["shown"] == (replay.numbers("replica") == 3).sum()
    browser_page.mouse.click(place["x"] + 30, place["y"] + 30)
    assert replay["shown"] == len(replay.table["replica"])


def test_names_in_a_page_are_text(folder: Path, capsys: pytest.CaptureFixture[str], browser_page: "Page"):
    """A scenario may be called anything."""
    name = "</script><b>&amp;"
    replay = replayed(capsys, browser_page, *SMALL_SCENARIO, "router=jsq", f"scenario.name='{name}'")
    assert replay.text("h1") == f"jsq on {name}"
    assert replay["about.scenario"] == name


@pytest.mark.compiled
@pytest.mark.slow
def test_a_hundred_thousand_requests(folder: Path, capsys: pytest.CaptureFixture[str], browser_page: "Page"):
    replay = replayed(
        capsys, browser_page, "scenario=generated_8xh100", "router=jsq", "scenario.workload.test_s=18800"
    )
    count = len(replay.table["arrival_s"])
    assert count > 100_000
    assert (folder / "run/replay.html").stat().st_size < 15e6
    assert replay.text("#count") == f"{count:,} of {count:,} shown"
    assert replay["bars"] == 0  # they are counted
    browser_page.mouse.move(600, 300)
    tip = replay.text("#tip")
    assert re.match(r"replica \d at [\d.]+ s\n", tip) and "KV blocks" in tip
    latency = replay.numbers("latency_s")
    replay.filter("least-latency", "28")
    assert replay["shown"] == replay["bars"] == (latency >= 28).sum()
    slowest = int(np.argmax(latency))
    replay.hover(slowest)
    assert replay.text("#tip").startswith(f"Request {slowest}\n")
    for _ in range(8):
        browser_page.mouse.wheel(0, -300)
    replay.settle()
    from_s, to_s = replay.range
    assert to_s - from_s < 20
