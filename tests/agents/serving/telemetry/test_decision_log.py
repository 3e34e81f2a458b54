"""The log of decisions: whole lines, bounded, read back as they were, whatever happens to the disk."""

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from servegym.agents.serving.contracts import UNKNOWN
from servegym.agents.serving.routing.fleet_view import FleetView
from servegym.agents.serving.routing.request_features import parse_openai
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import NoReplicaError, Router
from servegym.agents.serving.telemetry import decision_log, rotating_file
from servegym.agents.serving.telemetry.decision_log import DecisionLog
from servegym.costmodels.errors import InputError
from servegym.envs.workloads.decision_log import read_decision_log


class Remembers:
    """Likes the first replica best and remembers what it saw; fails for prompts of 13 tokens."""

    name = "remembers"

    def __init__(self) -> None:
        self.seen: list[tuple[np.ndarray, np.ndarray]] = []

    def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> np.ndarray:
        self.seen.append((request.copy(), replicas.copy()))
        if request[0] == 13:
            raise ValueError
        return -np.arange(len(replicas), dtype=np.float32)


def _router(log: DecisionLog, names: str = "abc", **more: object) -> Router:
    return Router(Remembers(), FleetView(names), observers=[log], deadline_s=None, **more)  # type: ignore[arg-type]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are written at once, and the disk is tried again at once."""
    monkeypatch.setattr(decision_log, "FLUSH_S", 0.001)
    monkeypatch.setattr(decision_log, "RETRY_S", 0.0)


def _until(true: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(5000):
        if true():
            return
        waited.wait(0.002)
    raise AssertionError("waited in vain")


def test_what_is_read_is_what_was_decided(tmp_path: Path) -> None:
    path, now_s = tmp_path / "decisions.jsonl", [1000.125]
    log = DecisionLog(path, setting={"block_size": 16.0}, clock=lambda: now_s[0])
    router = _router(log, clock=lambda: now_s[0])
    router.report("b", {"running": 3, "iteration_left_s": 0.1, "speed": 1 / 3})
    first = RoutedRequest("r-0", 100.0, 7.5, 2.0, 12345.0, (1, 2**63 - 1))
    router.route(first)
    router.route(RoutedRequest('ü\n"', 13.0), ["b", "c"])
    now_s[0] += 0.5
    router.tokens("r-0", 3)
    now_s[0] += 1
    router.ended("r-0")
    router.set_replicas("cad")
    router.route(RoutedRequest("r-2", 1.0))
    router.ended('ü\n"', ok=False)
    for name in "cad":
        router.set_available(name, False)
    with pytest.raises(NoReplicaError):
        router.route(RoutedRequest("r-3", 1.0))
    log.close()
    assert log.dropped == 0 and path.stat().st_mode & 0o777 == 0o600

    read = read_decision_log(path)
    assert (read.refused, read.cut_off, read.setting, read.prefix_block_tokens) == (
        1,
        0,
        {"block_size": 16},
        64,
    )
    policy = router.policy
    assert isinstance(policy, Remembers)
    for logged, (request, rows) in zip(read.decisions, policy.seen, strict=True):
        assert logged.rows is not None
        assert np.array_equal(logged.request, request) and np.array_equal(logged.rows, rows)
        assert logged.rows.dtype == logged.request.dtype == np.float32
    one, two, three = read.decisions
    assert (one.request_id, one.at_s, one.session, one.prefixes) == ("r-0", 1000.125, 12345.0, (1, 2**63 - 1))
    assert (one.replica, one.policy, one.fallback, one.replicas) == ("a", "remembers", "", ("a", "b", "c"))
    assert one.ended == (3, 0.5, 1.5, True)
    assert (two.request_id, two.policy, two.fallback) == ('ü\n"', "least_loaded", "raised")
    assert two.replica in "bc" and two.session == UNKNOWN and two.ended is not None
    assert (two.ended.output_tokens, two.ended.ok) == (-1, False) and np.isnan(two.ended.ttft_s)
    assert '"output_tokens":null,"ttft_s":null' in path.read_text()
    assert (three.replica, three.replicas, three.ended) == ("c", ("c", "a", "d"), None)


def test_no_text_of_a_request_is_in_it(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log")
    router = _router(log)
    secret = "the patient has "
    body = {"messages": [{"role": "user", "content": secret * 50}], "user": secret, "priority": secret}
    router.route(parse_openai(json.dumps(body).encode(), {"x-session-id": secret}))
    log.close()
    text = (tmp_path / "log").read_text()
    assert "prefixes" in text and "patient" not in text


def test_rows_of_some_decisions_only(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log", rows_every=3)
    router = _router(log)
    for i in range(7):
        router.route(RoutedRequest(str(i), 1.0))
    log.close()
    logged = read_decision_log(tmp_path / "log").decisions
    assert [each.rows is not None for each in logged] == [True, False, False] * 2 + [True]


def test_what_the_shadow_says_is_logged(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log")
    router = _router(log, shadow=True)
    for i in range(3):
        router.route(RoutedRequest(str(i), 1.0))
    log.close()
    logged = read_decision_log(tmp_path / "log").decisions
    assert [(each.policy, each.shadow) for each in logged] == [("least_loaded", "a")] * 3
    assert {each.replica for each in logged} == {"a", "b", "c"}


@pytest.mark.usefixtures("quick")
def test_files_make_room_and_each_says_what_its_rows_are(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = DecisionLog(path, max_bytes=4000, kept=3)
    router = _router(log)
    for i in range(100):
        router.route(RoutedRequest(str(i), 1.0))
    log.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["log", "log.1", "log.2", "log.3"]
    assert all(each.stat().st_size < 6000 for each in tmp_path.iterdir())
    ids = [int(each.request_id) for each in read_decision_log(path).decisions]
    assert ids == list(range(ids[0], 100)) and 10 < len(ids) < 60
    for each in tmp_path.iterdir():
        assert read_decision_log(each).decisions[0].replicas == ("a", "b", "c")


def test_it_goes_on_after_what_is_there_even_if_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for i in range(2):
        log = DecisionLog(path)
        _router(log).route(RoutedRequest(str(i), 1.0))
        log.close()
        with path.open("ab") as file:
            file.write(b'{"at_s":12')
    log = DecisionLog(path)
    _router(log).route(RoutedRequest("2", 1.0))
    log.close()
    read = read_decision_log(path)
    assert [each.request_id for each in read.decisions] == ["0", "1", "2"]
    assert read.cut_off == 2


@pytest.mark.usefixtures("quick")
def test_a_full_disk_costs_lines_and_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of a write goes through, then nothing: the half is cut off again."""
    path = tmp_path / "log"
    log = DecisionLog(path)
    router = _router(log)
    router.route(RoutedRequest("before", 1.0))
    _until(lambda: path.stat().st_size > 0)
    size, write, full = path.stat().st_size, os.write, True

    def half(descriptor: int, piece: bytes) -> int:
        if full:
            os.pwrite(descriptor, piece[: len(piece) // 2], size)
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, piece)

    monkeypatch.setattr(rotating_file.os, "write", half)
    for i in range(20):
        assert router.route(RoutedRequest(str(i), 1.0)).replica == "a"
    _until(lambda: log.dropped == 20)
    assert path.stat().st_size == size
    full = False
    router.route(RoutedRequest("after", 1.0))
    log.close()
    read = read_decision_log(path)
    assert [each.request_id for each in read.decisions] == ["before", "after"]
    assert read.decisions[1].replicas == ("a", "b", "c") and read.cut_off == 0
    assert caplog.text.count("No space left on device") == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("gone", ["moved", "emptied", "removed"])
def test_somebody_else_may_move_empty_or_remove_the_file(tmp_path: Path, gone: str) -> None:
    path = tmp_path / "log"
    log = DecisionLog(path)
    router = _router(log)
    router.route(RoutedRequest("0", 1.0))
    _until(lambda: path.stat().st_size > 0)
    if gone == "moved":
        path.rename(tmp_path / "old")
    elif gone == "emptied":
        os.truncate(path, 0)
    else:
        path.unlink()
    router.route(RoutedRequest("1", 1.0))
    log.close()
    assert [each.request_id for each in read_decision_log(path).decisions] == ["1"]


def test_lines_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_log, "FLUSH_S", 3600.0)
    monkeypatch.setattr(decision_log, "MAX_WAITING_BYTES", 10_000)
    log = DecisionLog(tmp_path / "log")
    router = _router(log)
    for i in range(100):
        router.route(RoutedRequest(str(i), 1.0))
    assert 50 < log.dropped < 99
    log.close()
    assert len(read_decision_log(tmp_path / "log").decisions) == 100 - log.dropped


def test_each_process_has_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    mine = DecisionLog(path)
    code = f"""
from servegym.agents.serving.telemetry.decision_log import DecisionLog
from servegym.agents.serving.routing.fleet_view import FleetView
from servegym.agents.serving.routing.least_loaded import LeastLoaded
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import Router
log = DecisionLog({str(path)!r})
Router(LeastLoaded(), FleetView("ab"), observers=[log]).route(RoutedRequest("theirs", 1.0))
print(log.path)
"""
    # It ends without closing its log: nothing must be lost by that.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    _router(mine).route(RoutedRequest("mine", 1.0))
    mine.close()
    theirs = Path(done.stdout.strip())
    assert theirs.parent == tmp_path and theirs != path and theirs.suffix == ".jsonl"
    assert [each.request_id for each in read_decision_log(path).decisions] == ["mine"]
    assert [each.request_id for each in read_decision_log(theirs).decisions] == ["theirs"]


@pytest.mark.parametrize("name", ["log.jsonl", "log"])
def test_logs_of_one_name_get_files_of_their_own(tmp_path: Path, name: str) -> None:
    """In one process, or in containers on one volume, where all processes may have the same number."""
    path = tmp_path / name
    logs = [DecisionLog(path) for _ in range(4)]
    paths = [log.path for log in logs]
    assert len(set(paths)) == 4 and paths[0] == path
    assert {each.suffix for each in paths} == {path.suffix}
    for i, log in enumerate(logs):
        _router(log).route(RoutedRequest(str(i), 1.0))
        log.close()
    for i, each in enumerate(paths):  # none takes another one for what it was renamed to
        assert [decision.request_id for decision in read_decision_log(each).decisions] == [str(i)]
    again = DecisionLog(path)
    again.close()
    assert again.path == path


def test_a_process_with_the_number_of_a_renamed_file_leaves_that_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    for i in range(2):
        log = DecisionLog(path, max_bytes=1)
        _router(log).route(RoutedRequest(str(i), 1.0))
        log.close()
    monkeypatch.setattr(rotating_file.os, "getpid", lambda: 1)
    mine, theirs = DecisionLog(path), DecisionLog(path)
    _router(theirs).route(RoutedRequest("theirs", 1.0))
    theirs.close()
    mine.close()
    assert [each.request_id for each in read_decision_log(path).decisions] == ["0", "1"]


def test_threads_share_it(tmp_path: Path) -> None:
    log = DecisionLog(tmp_path / "log")
    router = _router(log)

    def work(worker: int) -> None:
        for i in range(200):
            router.route(RoutedRequest(f"{worker}-{i}", 1.0))
            router.ended(f"{worker}-{i}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    read = read_decision_log(tmp_path / "log")
    assert len({each.request_id for each in read.decisions}) == 800
    assert all(each.ended is not None for each in read.decisions) and read.cut_off == 0


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    for path in (tmp_path / "no" / "folder" / "log", tmp_path):
        with pytest.raises(InputError, match="decision_log = .*: cannot be written"):
            DecisionLog(path)
