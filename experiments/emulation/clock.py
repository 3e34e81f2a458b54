"""Clocks that tell the time of the model, in its seconds."""

import asyncio
from collections.abc import Callable
from typing import Protocol


class Handle(Protocol):
    """A call that is to come."""

    def cancel(self) -> None:
        """It will not come."""


class Clock(Protocol):
    """What engines keep time by."""

    def now_s(self) -> float:
        """Seconds of the model since the clock began; never less than before."""

    def call_at(self, time_s: float, callback: Callable[[], None]) -> Handle:
        """Calls back when the clock has reached `time_s`, soon where it has already."""


class WallClock:
    """The clock on the wall; a second of the model lasts `time_scale` of its seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, time_scale: float = 1.0) -> None:
        self._loop, self.time_scale = loop, time_scale
        self._began_s = loop.time()

    def now_s(self) -> float:
        """Seconds of the model since this was made."""
        return (self._loop.time() - self._began_s) / self.time_scale

    def call_at(self, time_s: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """Every call is timed from the beginning, so that delays do not add up."""
        return self._loop.call_at(self._began_s + time_s * self.time_scale, callback)
