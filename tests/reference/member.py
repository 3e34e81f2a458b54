"""What every replica of a fleet has, whatever its role: a place in the plan, and a link."""

import math
from dataclasses import dataclass
from typing import Any

from tests.reference.request import Request
from tests.reference.settings import ReplicaSpec


@dataclass
class Link:
    """Sends the KV of one replica, one transfer after the other."""

    latency_s: float
    bytes_per_s: float
    bytes_per_block: float
    free_s: float = -math.inf

    def send(self, blocks: int, now_s: float) -> float:
        """The time at which so many blocks have arrived."""
        start_s = max(now_s, self.free_s)
        self.free_s = start_s + (self.latency_s + blocks * self.bytes_per_block / self.bytes_per_s)
        return self.free_s


class Member:
    """A replica as the fleet knows it."""

    def __init__(self, number: int, spec: ReplicaSpec) -> None:
        self.number = number
        self.role = spec.role
        self.link = Link(spec.link_latency_s, spec.link_bytes_per_s, spec.kv_bytes_per_block)
        self.state = "active"  # or starting; leaving: draining, then inactive; switching, changing: its role
        self.next_role = ""  # while switching and changing
        self.starts = 0  # how often it was started
        self.failed = False
        self.woken = False  # something has happened here since the last attempt to start an iteration
        self.waiting: list[Request] = []
        self.stopping: list[Any] = []  # migrations that wait for the end of the iteration in flight
        self.leaving: list[Request] = []  # cancelled, to go at the end of the iteration in flight

    @property
    def available(self) -> bool:
        return self.state == "active" and not self.failed
