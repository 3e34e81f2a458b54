"""A program that ends with us, however we end: also when we are killed and can end nothing any more.

Between us and the program stands a guardian, which is this file run as a program. It reads a pipe that closes
when we die, then asks the program and all that this has started to end, and makes them after a while.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

GRACE_S = 1.0
"""How long a program has to end when it is asked to."""

POLL_S = 0.1


class ChildProcess:
    """A running program; what it writes goes to the file `log`."""

    def __init__(self, command: Sequence[str | Path], log: Path) -> None:
        with log.open("wb") as output:
            self._guardian = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,  # Ctrl-C is for us: we end it
            )

    @property
    def running(self) -> bool:
        """Whether it has not ended by itself."""
        return self._guardian.poll() is None

    def stop(self) -> None:
        """Ends it and what it has started. It may have ended already."""
        assert self._guardian.stdin is not None
        self._guardian.stdin.close()
        self._guardian.wait()


def guard(command: Sequence[str]) -> None:
    """Runs a program until it ends, or until standard input is closed or we are asked to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
    try:
        while child.poll() is None and not select.select([0], [], [], POLL_S)[0]:
            pass
    finally:
        _signal_group(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_S)
        _signal_group(child.pid, signal.SIGKILL)
        child.wait()


def _signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, number)


if __name__ == "__main__":
    guard(sys.argv[1:])
