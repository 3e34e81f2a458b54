"""Being asked to stop, by Ctrl-C or by a cluster that wants its machine: a run first saves what it has."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what Slurm, Kubernetes and Ray send before they kill."""

_asked = threading.Event()


def stop_asked() -> bool:
    """Whether a signal has come since `deferred_interrupts` was entered."""
    return _asked.is_set()


@contextmanager
def deferred_interrupts(doing: str) -> Iterator[None]:
    """The first of SIGNALS only asks to stop, a second one stops at once, by KeyboardInterrupt.

    doing: what is finished before stopping, told on standard error. Whoever runs inside looks at `stop_asked`
    where stopping is safe. Outside the main thread signals are not ours, and nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if _asked.is_set():
            raise KeyboardInterrupt
        _asked.set()
        print(f"\nservegym: stopping after {doing}; once more to stop at once", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield
    finally:
        _asked.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
