"""How far long work has come, on a terminal: a line with a bar, a rate and the time left.

A bar appears after APPEARS_AFTER_S, so that quick work shows none, and goes when the work is done. It is
written to standard error, and only where that is a terminal. Bars open at once stand below each other.
"""

import multiprocessing
import sys
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

APPEARS_AFTER_S = 2.0

Item = TypeVar("Item")


class Advance:
    """What `progress` gives: call it with how much was done, 1 unless said otherwise."""

    def __init__(self, description: str, total: float | None, unit: str, start: float) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.start = self.done = start
        self.begun_s = self.advanced_s = time.monotonic()

    def __call__(self, count: float = 1) -> None:
        self.to(self.done + count)

    def to(self, done: float, total: float | None = None) -> None:
        """So much is done altogether, out of `total` where that has become known."""
        self.done, self.advanced_s = done, time.monotonic()
        if total is not None:
            self.total = total

    def doing(self, description: str) -> None:
        """What is being done now."""
        self.description = description

    @property
    def age_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.begun_s

    @property
    def rate(self) -> float:
        """Units/s, on average up to the last advance; 0 before the first one."""
        took_s = self.advanced_s - self.begun_s
        return (self.done - self.start) / took_s if took_s > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds until the end at that rate; None where nobody can tell."""
        if self.total is None or not self.rate > 0:
            return None
        return max(0.0, (self.total - self.done) / self.rate - (time.monotonic() - self.advanced_s))


_open: list[Advance] = []  # in the order in which they began


@contextmanager
def progress(
    description: str, total: float | None = None, unit: str = "steps", start: float = 0
) -> Iterator[Advance]:
    """A bar of `total` units, None where it is not known, of which `start` were done before.

    >>> with progress("Adding", total=3, unit="numbers") as advance:
    ...     for number in range(3):
    ...         advance()
    """
    advance = Advance(description, total, unit, start)
    if not _is_wanted():
        yield advance
        return
    if _open:  # another one shows it
        _open.append(advance)
        try:
            yield advance
        finally:
            _open.remove(advance)
        return
    live = Live(
        get_renderable=_as_table,
        console=Console(stderr=True),
        refresh_per_second=2,  # half a millisecond each: what is being measured hardly notices
        transient=True,
        redirect_stdout=False,  # others may redirect them meanwhile
        redirect_stderr=False,
    )
    timer = threading.Timer(APPEARS_AFTER_S, live.start)
    timer.daemon = True
    _open.append(advance)
    timer.start()
    try:
        yield advance
    finally:
        timer.cancel()
        timer.join()  # it may be about to start the display
        live.stop()
        _open.remove(advance)


def tracked(items: Collection[Item], description: str, unit: str = "items") -> Iterator[Item]:
    """Each of `items`, with a bar that says how many are done."""
    with progress(description, len(items), unit) as advance:
        for item in items:
            yield item
            advance()


def _is_wanted() -> bool:
    """Whether somebody looks; the workers of a process would write over each other's lines."""
    return sys.stderr.isatty() and multiprocessing.current_process().name == "MainProcess"


def _as_table() -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=40)
    table.add_column()
    table.add_column(no_wrap=True, overflow="ellipsis")
    for each in list(_open):
        if each.age_s >= APPEARS_AFTER_S:
            bar = ProgressBar(total=each.total, completed=each.done, width=20)
            table.add_row(each.description, bar, _in_words(each))
    return table


def _in_words(bar: Advance) -> str:
    """Count, rate, time since the beginning, time left."""
    total = "" if bar.total is None else f"/{bar.total:,.0f}"
    words = [f"{bar.done:,.0f}{total} {bar.unit}"]
    if bar.rate > 0:
        words.append(_rate_in_words(bar.rate, bar.unit))
    words.append(_clock(bar.age_s))
    if bar.left_s is not None:
        words.append(f"ETA {_clock(bar.left_s)}")
    return ", ".join(words)


def _rate_in_words(rate: float, unit: str) -> str:
    """Units in the shortest time in which there is at least one.

    >>> _rate_in_words(0.25, "pairs")
    '15 pairs/min'
    """
    choices = ((rate, "s"), (60 * rate, "min"), (3600 * rate, "h"))
    value, name = next((choice for choice in choices if choice[0] >= 1), choices[-1])
    return f"{value:,.0f} {unit}/{name}" if value >= 100 else f"{value:.3g} {unit}/{name}"


def _clock(seconds: float) -> str:
    """
    >>> _clock(3725.4)
    '1:02:05'
    """
    return str(timedelta(seconds=round(seconds)))
