"""A child ends with its parent, and takes along what it has started."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from servegym.experiments.serving_routers.child_process import ChildProcess

PATIENCE_S = 30.0

# Starts a child of its own, writes both process ids, and lives for long.
FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""

STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + FAMILY


def process_ids(log: Path) -> list[int]:
    """What the family has written, once it has."""
    end_s = time.monotonic() + PATIENCE_S
    while not log.exists() or not log.read_text().endswith("\n"):
        assert time.monotonic() < end_s
        time.sleep(0.01)
    return [int(each) for each in log.read_text().split()]


def lives(process: int) -> bool:
    """Whether it runs; one that has ended and that nobody has asked about does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True).stdout
    return state.strip()[:1] not in ("", "Z")


def assert_all_end(processes: list[int]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while any(map(lives, processes)):
        assert time.monotonic() < end_s
        time.sleep(0.05)


@pytest.mark.parametrize("program", [FAMILY, STUBBORN])
def test_stopping_ends_a_program_and_its_children(program: str, tmp_path: Path) -> None:
    child = ChildProcess([sys.executable, "-c", program], tmp_path / "log")
    processes = process_ids(tmp_path / "log")
    assert child.running
    assert all(map(lives, processes))
    child.stop()
    assert not child.running
    assert_all_end(processes)
    child.stop()  # once more is no error


def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    start = "import sys, time; from pathlib import Path\n"
    start += "from servegym.experiments.serving_routers.child_process import ChildProcess\n"
    start += "child = ChildProcess([sys.executable, '-c', sys.argv[1]], Path(sys.argv[2])); time.sleep(600)"
    log = tmp_path / "log"
    parent = subprocess.Popen([sys.executable, "-c", start, FAMILY, str(log)])
    processes = process_ids(log)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert_all_end(processes)


def test_a_program_may_end_by_itself(tmp_path: Path) -> None:
    child = ChildProcess([sys.executable, "-c", "print('done')"], tmp_path / "log")
    end_s = time.monotonic() + PATIENCE_S
    while child.running:
        assert time.monotonic() < end_s
        time.sleep(0.01)
    assert (tmp_path / "log").read_text() == "done\n"
    child.stop()
