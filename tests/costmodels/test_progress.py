"""Bars: on a terminal after two seconds, with a rate and the time left; nowhere else."""

import re

import pytest

from servegym.costmodels.progress import Advance, progress, tracked
from tests.terminal import run

WORK = """
import sys, time
from servegym.costmodels import progress as bars
bars.APPEARS_AFTER_S = {after_s}
with bars.progress("Whole", total=4, unit="parts") as advance:
    for part in range(4):
        advance.doing(f"Part {{part}}")
        for step in bars.tracked(range(6), "Steps", "steps"):
            time.sleep({step_s})
        advance()
print("done")
"""


def test_a_bar_has_a_count_a_rate_and_the_time_left():
    out, seen = run(WORK.format(after_s=0.2, step_s=0.1))
    assert out == "done\n"
    lines = [line for line in re.split(r"[\r\n]+", seen) if line.strip()]
    outer = [line for line in lines if line.startswith("Part")]
    inner = [line for line in lines if line.startswith("Steps")]
    assert any(
        re.search(r"━.* 2/4 parts, 1\.\d* parts/s, 0:00:0\d, ETA 0:00:0[12]\b", line) for line in outer
    )
    assert any(
        re.search(r"━.* [345]/6 steps, [6-9](\.\d*)? steps/s, 0:00:00, ETA 0:00:00", line) for line in inner
    )
    assert outer[-1].startswith("Part 3")


def test_work_of_less_than_two_seconds_shows_none():
    assert run(WORK.format(after_s=2.0, step_s=0.02)) == ("done\n", "")


def test_a_bar_appears_after_two_seconds():
    _, seen = run(
        "import time\nfrom servegym.costmodels.progress import progress\n"
        "with progress('Slow', 2):\n    time.sleep(2.4)"
    )
    assert re.search(r"Slow .* 0/2 steps, 0:00:02", seen)


def test_a_pipe_gets_nothing(monkeypatch, capfd):
    monkeypatch.setattr("servegym.costmodels.progress.APPEARS_AFTER_S", 0.0)
    assert list(tracked([3, 4], "Numbers")) == [3, 4]
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def now_s(monkeypatch):
    """The clock, to be set."""
    now = [100.0]
    monkeypatch.setattr("servegym.costmodels.progress.time.monotonic", lambda: now[0])
    return now


def test_the_rate_counts_what_was_done_since_the_beginning(now_s):
    advance = Advance("Learning", total=1000, unit="steps", start=600)
    assert (advance.rate, advance.left_s) == (0.0, None)
    now_s[0] += 10
    advance(100)
    assert (advance.rate, advance.left_s) == (10.0, 30.0)
    now_s[0] += 20  # nothing came: the rate is the last one known, and the end is nearer
    assert (advance.rate, advance.left_s) == (10.0, 10.0)


def test_the_total_may_become_known_later(now_s):
    with progress("file", unit="MB") as advance:
        now_s[0] += 2
        advance.to(5.0)
        assert (advance.rate, advance.left_s) == (2.5, None)
        advance.to(5.0, total=10.0)
        assert advance.left_s == 2.0
