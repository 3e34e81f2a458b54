"""Who can still be answered in time."""

from collections.abc import Sequence

from tests.reference.batch.fleet import Fleet
from tests.reference.batch.request import Request


def feasible(fleet: Fleet, model: int, size: int, first: Request) -> bool:
    """A batch of `size` sent now would end by the deadline of its first request."""
    return fleet.now + fleet.lead(size) + fleet.latency(model, size) <= first.deadline_s


def expired(fleet: Fleet, model: int, queue: Sequence[Request]) -> int:
    """How many at its head could not even be answered alone."""
    for count, request in enumerate(queue):
        if feasible(fleet, model, 1, request):
            return count
    return len(queue)


def expire(fleet: Fleet, model: int) -> None:
    """Drop them."""
    count = expired(fleet, model, fleet.queues[model])
    if count:
        fleet.drop(model, count)
