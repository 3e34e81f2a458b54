"""One replica in time: it wakes up when an iteration ends and tells who has got a token."""

import math
from typing import Protocol

from servegym.experiments.emulation.clock import Clock, Handle
from servegym.experiments.emulation.fleet import Arrival, EmulatedFleet, Iteration


class Listener(Protocol):
    """Whoever wants the tokens of a request."""

    def token(self, number: int, time_s: float) -> None:
        """Token `number`, from 1, was sampled at `time_s` of the engine. Must not call the engine."""


class LiveEngine:
    """A replica of a fleet by a clock. Where the process was late it does late what was due, at the time due.

    Times of the engine are those of the clock, less what it has been paused.
    """

    def __init__(self, fleet: EmulatedFleet, replica_id: int, clock: Clock) -> None:
        self._fleet, self._replica_id, self._clock = fleet, replica_id, clock
        self._listeners: dict[int, tuple[Listener, int]] = {}  # by slot, with the number of its last token
        self._timer: Handle | None = None
        self._timer_s = math.inf
        self._paused_s: float | None = None  # engine time at which it stands
        self._lost_s = 0.0  # in pauses

    def now_s(self) -> float:
        """The engine's time."""
        return self._clock.now_s() - self._lost_s if self._paused_s is None else self._paused_s

    def submit(self, request: Arrival, listener: Listener) -> int:
        """A request comes now; returns its slot. CannotServe and FleetIsFull as in `EmulatedFleet.submit`."""
        now_s = self._catch_up()
        slot = self._fleet.submit(self._replica_id, request, now_s)
        self._listeners[slot] = listener, request.output_tokens
        self._set_timer()
        return slot

    def cancel(self, slot: int) -> None:
        """Whoever sent a request, whose last token has not been told, has left."""
        now_s = self._catch_up()
        if self._listeners.pop(slot, None) is not None:
            self._fleet.withdraw(self._replica_id, slot, now_s)
            self._set_timer()

    def row(self) -> dict[str, float]:
        """What a router sees of the replica now: REPLICA_COLUMNS by name."""
        now_s = self._catch_up()
        return self._fleet.row(self._replica_id, now_s)

    def pause(self) -> None:
        """The engine stands still; requests may come."""
        if self._paused_s is None:
            self._paused_s = self._catch_up()
            self._set_timer()

    def resume(self) -> None:
        """It goes on where it stood."""
        if self._paused_s is not None:
            self._lost_s = self._clock.now_s() - self._paused_s
            self._paused_s = None
            self._set_timer()

    def _catch_up(self) -> float:
        """Does what was due before now; returns the time."""
        now_s = self.now_s()
        self._tell(self._fleet.advance(self._replica_id, now_s))
        self._set_timer()
        return now_s

    def _wake(self) -> None:
        # timers may be early by the resolution of the clock
        now_s = max(self.now_s(), self._timer_s)
        self._timer, self._timer_s = None, math.inf
        self._tell(self._fleet.advance(self._replica_id, now_s, starting=True))
        self._set_timer()

    def _tell(self, iterations: list[Iteration]) -> None:
        for end_s, slots, numbers in iterations:
            for slot, number in zip(slots, numbers, strict=True):
                told = self._listeners.get(slot)
                if told is not None:
                    if number == told[1]:
                        del self._listeners[slot]
                    told[0].token(number, end_s)

    def _set_timer(self) -> None:
        due_s = math.inf if self._paused_s is not None else self._fleet.due_s(self._replica_id)
        if due_s == self._timer_s:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_s = None, due_s
        if due_s < math.inf:
            self._timer = self._clock.call_at(due_s + self._lost_s, self._wake)
