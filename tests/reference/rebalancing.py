"""Rebalancing by replica: a rule orders replicas about and names pairs, and who moves follows from that."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tests.reference import availability, roles
from tests.reference.request import Request
from tests.reference.settings import ROLES

if TYPE_CHECKING:
    from tests.reference.fleet import Fleet

ChooseMoves = Callable[[NDArray[np.float64]], tuple[Iterable[tuple[int, int]], Sequence[int]]]

START, STOP, BE_MIXED = 1, 2, 3  # orders; 0: go on; from BE_MIXED on: a role, by its place in ROLES


def by_replicas(choose_moves: ChooseMoves) -> "Callable[[float, Fleet], Iterator[tuple[Request, int]]]":
    """A `rebalance` of `choose_moves(rows (R, 19)) -> pairs (source, target), orders (R,)`."""

    def rebalance(now_s: float, fleet: "Fleet") -> "Iterator[tuple[Request, int]]":
        moves, orders = choose_moves(rows_of(fleet, now_s))
        for replica, order in zip(list(fleet.replicas), orders, strict=True):
            if order == START:
                availability.start(fleet, replica, now_s)
            elif order == STOP:
                availability.stop(replica)
            elif order >= BE_MIXED:
                roles.switch(fleet, replica, ROLES[order - BE_MIXED])
        roles.begin_changes(fleet, now_s)
        for source, target in moves:
            request = next_to_leave(fleet, source)
            if request is not None:
                yield request, target

    return rebalance


def rows_of(fleet: "Fleet", now_s: float) -> NDArray[np.float64]:
    """What a rebalancing rule sees: available is where a request may migrate to."""
    seen_s, glances, roads = fleet.glances(-np.inf, now_s)
    return np.array(
        [
            glance.row(
                seen_s,
                replica.available and replica.role in ("mixed", "decode"),
                0,
                1.0 if replica.role == "encode" else speed,
                fleet.sendings.unseen(roads, replica.number),
                availability.standing(fleet, replica),
                replica.role,
            )
            for glance, replica, speed in zip(glances, fleet.replicas, fleet.speeds, strict=True)
        ],
        dtype=np.float64,
    )


def next_to_leave(fleet: "Fleet", number: int) -> Request | None:
    """The least urgent, then the shortest, then the first of those decoding and not migrating yet.

    Urgent ones only leave a replica that is not available.
    """
    replica = fleet.replicas[number]
    if replica.role == "encode":
        return None
    moving = [migration.request for migration in fleet.migrations]
    candidates = [r for r in replica.running if r.decoding and r not in moving]
    if replica.available:
        candidates = [r for r in candidates if not r.urgent]
    return min(candidates, key=lambda r: (-r.priority, r.known), default=None)
