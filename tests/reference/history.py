"""What the fleet looked like at any instant so far, for routers that see stale state."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.reference.sendings import Roads, Sendings
from tests.reference.view import Glance


class Moment(NamedTuple):
    """An instant at which something happened."""

    time_s: float
    before_starts: list[Glance]
    after_starts: list[Glance]
    roads: Roads


class History:
    """Glances at all replicas, at all instants at which something happened."""

    def __init__(self, replicas: Sequence[Any], sendings: Sendings) -> None:
        self.replicas = replicas
        self.at_first = self.now(), sendings.now()
        self.moments: list[Moment] = []

    def now(self) -> list[Glance]:
        return [replica.glance() for replica in self.replicas]

    def at(self, time_s: float) -> tuple[list[Glance], Roads]:
        """After everything that happened at that instant, and before iterations started then."""
        past = [moment for moment in self.moments if moment.time_s <= time_s]
        if not past:
            return self.at_first
        last = past[-1]
        return last.before_starts if last.time_s == time_s else last.after_starts, last.roads
