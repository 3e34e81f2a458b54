"""Rebalancing by replica ("Migration"): a rule names pairs of replicas, and who moves follows from that."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tests.reference.request import Request

if TYPE_CHECKING:
    from tests.reference.fleet import Fleet

ChooseMoves = Callable[[NDArray[np.float64]], Iterable[tuple[int, int]]]


def by_replicas(choose_moves: ChooseMoves) -> "Callable[[float, Fleet], Iterator[tuple[Request, int]]]":
    """A `rebalance` of `choose_moves(rows (R, 13)) -> pairs of replicas (source, target)`."""

    def rebalance(now_s: float, fleet: "Fleet") -> "Iterator[tuple[Request, int]]":
        for source, target in choose_moves(rows_of(fleet, now_s)):
            request = next_to_leave(fleet, source)
            if request is not None:
                yield request, target

    return rebalance


def rows_of(fleet: "Fleet", now_s: float) -> NDArray[np.float64]:
    """What a rebalancing rule sees: available is where a request may migrate to."""
    seen_s, glances = fleet.glances(-np.inf, now_s)
    return np.array(
        [
            glance.row(seen_s, replica.available and replica.role in ("mixed", "decode"), 0, speed)
            for glance, replica, speed in zip(glances, fleet.replicas, fleet.speeds, strict=True)
        ],
        dtype=np.float64,
    )


def next_to_leave(fleet: "Fleet", number: int) -> Request | None:
    """The least urgent, then the shortest, then the first of those decoding and not migrating yet."""
    replica = fleet.replicas[number]
    if replica.role == "encode":
        return None
    moving = [migration.request for migration in fleet.migrations]
    candidates = [r for r in replica.running if r.decoding and r not in moving]
    return min(candidates, key=lambda r: (-r.priority, r.known), default=None)
