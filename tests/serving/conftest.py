"""What the tests against real serving systems share: free ports, and commands that need the whole package."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Gives a port on loopback that nobody listens on, another one at each call."""
    given = set()

    def give() -> int:
        while True:
            with socket.create_server(("127.0.0.1", 0)) as server:
                port = int(server.getsockname()[1])
            if port not in given:
                given.add(port)
                return port

    return give


@pytest.fixture(scope="session")
def servegym_python() -> str:
    """The Python that has the whole package: simulator, learners and commands, but no serving system."""
    python = os.environ.get("SERVEGYM_PYTHON")
    if not python:
        pytest.fail("SERVEGYM_PYTHON names no Python in which servegym is installed (make test-serving)")
    return python


@pytest.fixture
def start_servegym(servegym_python: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts `servegym COMMAND ...`, which ends with the test. What it writes goes to files in `tmp_path`."""
    program = Path(servegym_python).with_name("servegym")
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"servegym-{len(started)}.log").open("wb") as log:
            started.append(subprocess.Popen([program, *arguments], env=environ, stdout=log, stderr=log))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
    for process in started:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
