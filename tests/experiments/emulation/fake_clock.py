"""A clock that stands still until it is told to go on."""

import heapq
import itertools
from collections.abc import Callable


class _Call:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class FakeClock:
    """Calls back in order of time; what is due at one instant in the order in which it was asked for."""

    def __init__(self) -> None:
        self.time_s = 0.0
        self._calls: list[tuple[float, int, _Call]] = []
        self._numbers = itertools.count()

    def now_s(self) -> float:
        return self.time_s

    def call_at(self, time_s: float, callback: Callable[[], None]) -> _Call:
        call = _Call(callback)
        heapq.heappush(self._calls, (time_s, next(self._numbers), call))
        return call

    def run_until(self, time_s: float) -> None:
        """Calls what is due before `time_s`, and goes on to there."""
        while self._calls and self._calls[0][0] < time_s:
            self._call_next()
        self.time_s = time_s

    def run_out(self) -> None:
        """Calls until nothing is due any more."""
        while self._calls:
            self._call_next()

    def _call_next(self) -> None:
        due_s, _, call = heapq.heappop(self._calls)
        self.time_s = max(self.time_s, due_s)
        if call.callback is not None:
            call.callback()
