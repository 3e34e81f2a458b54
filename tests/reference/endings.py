"""Requests that end early: cancelled by their clients, or lost."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.reference.fleet import Fleet
    from tests.reference.request import Request


def cancel(fleet: "Fleet", request: "Request", now_s: float) -> None:
    """The client leaves: at once, or when the iteration in flight has ended."""
    if request.place == "ended":
        return
    replica = fleet.replicas[request.replica]
    if request.place == "running" and replica.in_flight:
        replica.leaving.append(request)
    else:
        end(fleet, request, "cancelled", now_s)


def end(fleet: "Fleet", request: "Request", outcome: str, now_s: float) -> None:
    """It leaves wherever it is; its follow-ups will never come."""
    take_out(fleet, request)
    request.place, request.outcome = "ended", outcome
    if outcome == "cancelled":
        request.cancelled_s = now_s
    lose_follow_ups(fleet, request)


def take_out(fleet: "Fleet", request: "Request") -> None:
    """Out of its queue or batch; its KV blocks are free."""
    if request.place == "router":
        fleet.at_router.remove(request)
    elif request.place in ("waiting", "running", "swapped"):
        fleet.replicas[request.replica].take_out(request)
    if request.table:
        fleet.replicas[request.holder].release(request)
    request.journey += 1
    if request.sending is not None:
        request.sending.on_way = False


def lose_follow_ups(fleet: "Fleet", parent: "Request") -> None:
    for request in fleet.requests:
        if request.parent is parent:
            request.place, request.outcome = "ended", "lost"
            lose_follow_ups(fleet, request)
