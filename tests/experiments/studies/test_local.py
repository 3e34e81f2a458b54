"""Processes of this machine: whoever is killed, and whenever, only the shards in progress are done again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from servegym.experiments.cli import main
from servegym.experiments.studies import local
from tests.experiments.studies.made_up_studies import (
    LONGER_STUDY,
    contents,
    killing_a_worker,
    num_complete,
    wait_until,
    workers_of,
)

pytestmark = [
    pytest.mark.compiled,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds processes by their open files"),
]


def test_a_worker_that_is_killed_is_replaced(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    out = tmp_path / "study"
    with killing_a_worker(out, after=2) as killed:
        assert main(["study", *LONGER_STUDY, f"out={out}"]) == 0
    assert len(killed) == 1
    assert contents(out) == undisturbed


def _begun_and_stopped(out: Path, how: signal.Signals) -> tuple[int, str]:
    """How a study ended that was stopped after two shards, its workers too, and what it said."""
    words = [sys.executable, "-m", "servegym.experiments.cli", "study", *LONGER_STUDY, f"out={out}"]
    with subprocess.Popen(words, start_new_session=True, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: num_complete(out) >= 2 or process.poll() is not None)
        if how == signal.SIGINT:
            os.killpg(process.pid, how)
        else:
            process.send_signal(how)
        ended = process.wait(60)
        wait_until(lambda: not workers_of(out), 60)
        assert process.stderr is not None
        return ended, process.stderr.read()


@pytest.mark.parametrize("how, code", [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_study_that_is_stopped_goes_on(
    tmp_path: Path, undisturbed: dict[str, bytes], how: signal.Signals, code: int
) -> None:
    """SIGKILL of the parent alone, and Ctrl-C, which all processes of a terminal get: no worker is left."""
    for attempt in range(5):  # a study takes a second: on a busy machine it may be over before it is stopped
        out = tmp_path / f"study{attempt}"
        ended, said = _begun_and_stopped(out, how)
        if num_complete(out) < 10:
            break
    assert ended == code
    assert num_complete(out) < 10
    assert said == ("servegym: interrupted\n" if how == signal.SIGINT else "")
    if how == signal.SIGINT:
        assert not list(out.glob("*/.shard-*"))
    written = {path: path.stat().st_mtime_ns for path in out.glob("requests/shard-*")}
    assert main(["study", *LONGER_STUDY, f"out={out}"]) == 0
    assert contents(out) == undisturbed
    again = [path for path, when in written.items() if path.stat().st_mtime_ns != when]
    assert len(again) <= 2  # at most those whose other files were not yet there


def test_a_shard_whose_workers_die_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "ATTEMPTS", 1)
    out = tmp_path / "study"
    with killing_a_worker(out, after=0):
        assert main(["study", *LONGER_STUDY, "workers=1", f"out={out}"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "error: shard 0 (episodes 0 to 6): its worker died 1 times, at last by signal 9; is there" in said
    assert not list(out.glob("*/.shard-*"))
