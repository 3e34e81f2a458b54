"""Replicas that change their role."""

from typing import TYPE_CHECKING, Any

from tests.reference import availability

if TYPE_CHECKING:
    from tests.reference.fleet import Fleet


def switch(fleet: "Fleet", replica: Any, role: str) -> None:
    """It drains and is to have another role, if it can be spared and there is such a role."""
    if fleet.settings.role_switch_s is None or replica.role == role or replica.state != "active":
        return
    known = any(r.role == role for r in fleet.replicas)
    alike = [r for r in fleet.replicas if r.role == replica.role and r.state == "active"]
    if known and len(alike) > 1:
        replica.state, replica.next_role = "switching", role


def begin_changes(fleet: "Fleet", now_s: float) -> None:
    """Those that have drained begin to change."""
    assert fleet.settings.role_switch_s is not None or all(r.state != "switching" for r in fleet.replicas)
    for replica in fleet.replicas:
        if replica.state == "switching" and availability.is_empty(fleet, replica):
            replica.state = "changing"
            changed_s = now_s + (fleet.settings.role_switch_s or 0.0)
            fleet.at(changed_s, lambda now_s, n=replica.number: _take_role(fleet, n))


def _take_role(fleet: "Fleet", number: int) -> None:
    old = fleet.replicas[number]
    role, new = old.next_role, old
    if "encode" in (old.role, role):
        kept = [r for r in fleet.put_away if r.number == number]
        new = kept[0] if kept else fleet.make(number, role)
        fleet.put_away = [r for r in fleet.put_away if r is not new] + [old]
        new.link, new.starts, new.failed = old.link, old.starts, old.failed
        fleet.replicas[number] = new
    new.clear()
    new.role, new.state = role, "active"
