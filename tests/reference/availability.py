"""Replicas that fail and recover, and a fleet that grows and shrinks by a plan."""

from typing import TYPE_CHECKING, Any

from tests.reference import endings, migration

if TYPE_CHECKING:
    from tests.reference.fleet import Fleet
    from tests.reference.request import Request

LEAVING, OFF = 2, 3
STANDING = {"active": 0, "starting": 1, "switching": 4, "changing": 5}


def fail(fleet: "Fleet", number: int, now_s: float) -> None:
    """Everything on the replica, on the way to it or from it goes back to the router, or is lost."""
    replica = fleet.replicas[number]
    replica.failed = True
    migration.failed(fleet, replica)
    for request in sorted(_concerned(fleet, number), key=lambda r: (r.arrival_s, r.index)):
        if request in replica.leaving:
            endings.end(fleet, request, "cancelled", now_s)
        elif fleet.settings.on_failure == "lost":
            endings.end(fleet, request, "lost", now_s)
        else:
            endings.take_out(fleet, request)
            request.start_anew()
            fleet.come_to_router(request, now_s)
    replica.clear()
    replica.link.free_s = now_s


def _concerned(fleet: "Fleet", number: int) -> "list[Request]":
    there = ("waiting", "running", "swapped", "dispatch", "link")
    return [
        r
        for r in fleet.requests
        if (r.place in there and r.replica == number) or (r.table and r.holder == number)
    ]


def recover(fleet: "Fleet", number: int) -> None:
    fleet.replicas[number].failed = False


def scale(fleet: "Fleet", wanted: int, now_s: float) -> None:
    """So many replicas are to be active, or about to be."""
    planned = [r for r in fleet.replicas if r.state != "leaving"]
    for replica in planned[wanted:]:
        stop(replica)
    others = [r for r in fleet.replicas if r.state == "leaving"]
    for replica in others[: max(0, wanted - len(planned))]:
        start(fleet, replica, now_s)


def start(fleet: "Fleet", replica: Any, now_s: float) -> None:
    """An inactive replica starts, one that drains goes on."""
    now = standing(fleet, replica)
    if now == LEAVING:
        replica.state = "active"
    elif now == OFF:
        replica.state = "starting"
        replica.starts += 1
        fleet.at(now_s + fleet.settings.startup_s, _started(replica, replica.starts))


def stop(replica: Any) -> None:
    """It takes no more requests."""
    if replica.state in ("active", "starting"):
        replica.state = "leaving"


def standing(fleet: "Fleet", replica: Any) -> int:
    """The column of "What a router sees"."""
    if replica.state == "leaving":
        return OFF if is_empty(fleet, replica) else LEAVING
    return STANDING[replica.state]


def _started(replica: Any, start: int) -> Any:
    def happen(now_s: float) -> None:
        if replica.state == "starting" and replica.starts == start:
            replica.clear()
            replica.state = "active"

    return happen


def is_empty(fleet: "Fleet", replica: Any) -> bool:
    """Nothing is on the replica, on the way to it or from it: if it is to leave, it is inactive."""
    coming = any(m.target is replica for m in fleet.migrations)
    return not coming and not _concerned(fleet, replica.number)
