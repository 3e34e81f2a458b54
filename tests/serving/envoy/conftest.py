"""Stacks for tests: what a test starts is ended after it, and its logs are shown where it fails."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.serving.envoy.stack import Stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    """Starts a Stack of the given arguments."""
    started: list[Stack] = []

    def start(**arguments) -> Stack:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Stack(folder, **arguments))
        return started[-1]

    yield start
    for each in started:
        each.close()
        for log in ("picker", "envoy"):
            print(f"--- {log}\n{each.log(log)[-4000:]}" if (each.folder / f"{log}.log").exists() else "")
