"""Small studies, and who kills their workers."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.experiments.commands import SMALL_SCENARIO

SMALL_STUDY = (*SMALL_SCENARIO, "router=random", "episodes=5", "episode_requests=40", "shard_episodes=2")
"""Three shards."""

LONGER_STUDY = (
    *SMALL_SCENARIO,
    "router=random",
    "seed=5",
    "episodes=70",
    "episode_requests=5000",
    "shard_episodes=7",
    "workers=2",
)
"""Ten shards of a tenth of a second each, once the processes have begun."""


def contents(out: Path) -> dict[str, bytes]:
    """By path, the bytes of all that a study says; partial files as well, which there must be none of."""
    of_study = {"config.yaml", "command.txt", "provenance.json", "code.diff", "packages.txt", "study.lock"}
    files = (path for path in out.rglob("*") if path.is_file() and path.name not in of_study)
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def num_complete(out: Path) -> int:
    """Of the shards."""
    return len(list((out / "episodes").glob("shard-*")))


def workers_of(out: Path) -> set[int]:
    """Processes that have a file of requests open, which they have begun to write."""
    found = set()
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            for file in (process / "fd").iterdir() if process.name.isdigit() else ():
                if os.readlink(file).startswith(str((out / "requests").resolve() / ".shard-")):
                    found.add(int(process.name))
    return found


@contextmanager
def killing_a_worker(out: Path, after: int) -> Iterator[list[int]]:
    """Kills one that works on the study once `after` shards are complete; who it was, afterwards."""
    killed: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            if num_complete(out) >= after and (victims := workers_of(out)):
                killed.append(victims.pop())
                os.kill(killed[0], signal.SIGKILL)
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def wait_until(condition: object, seconds: float = 300.0) -> None:
    """Until the function returns something true; fails after some time."""
    assert callable(condition)
    end_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.005)
