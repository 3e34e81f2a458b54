"""`servegym emulate` as a command: it answers when it is ready, and stops when it is told to."""

import json
import os
import signal
import socket
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from servegym.experiments.cli import main
from tests.experiments.commands import SMALL_SCENARIO, answer_of, error_of

pytestmark = pytest.mark.compiled


def free_ports(count: int) -> int:
    """The first of so many ports that are free in a row."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
        try:
            for i in range(count):
                with socket.socket() as other:
                    other.bind(("127.0.0.1", port + i))
        except OSError:
            continue
        return int(port)


def test_says_where_the_workers_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = answer_of(capsys, "emulate", *SMALL_SCENARIO, "port=0", "for_s=0.01", "time_scale=4")
    assert len(answer["urls"]) == len(set(answer["urls"])) == answer["num_replicas"] == 2
    assert all(url.startswith("http://127.0.0.1:") for url in answer["urls"])
    assert (answer["scenario"], answer["model"], answer["time_scale"]) == (
        "generated_8xh100",
        "llama_3_1_8b",
        4,
    )
    assert main(["emulate", *SMALL_SCENARIO, "port=0", "for_s=0.01"]) == 0
    assert "http://127.0.0.1:" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_it_is_stopped(
    folder: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    port = free_ports(2)
    served: list[int] = []

    def use_and_stop() -> None:
        for i in (0, 1):
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port + i}/load", timeout=5) as answer:
                        served.append(json.load(answer)["kv_total_blocks"])
                        break
                except OSError:
                    time.sleep(0.05)
        os.kill(os.getpid(), number)

    user = threading.Thread(target=use_and_stop)
    user.start()
    answer = answer_of(capsys, "emulate", *SMALL_SCENARIO, f"port={port}")
    user.join()
    assert answer["urls"] == [f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}"]
    assert len(served) == 2 and min(served) > 0


def test_bad_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str) -> str:
        return error_of(capsys, "emulate", *SMALL_SCENARIO, *words)

    assert "port = 70000" in said("port=70000")
    assert "time_scale = 0.0" in said("time_scale=0")
    assert "stream_interval = 0" in said("stream_interval=0")
    assert "for_s = 0.0" in said("for_s=0")
    assert "scheduler" in said("scenario.engine.scheduler=agent")
    assert "leave out -m" in said("-m", "time_scale=1,2")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port = {port}: replica 0 cannot listen" in said(f"port={port}")
