"""Nexus's squishy bin packing (Shen et al., SOSP 2019): which GPU serves which models, in what batches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.reference.batch.fleet import Fleet


@dataclass
class Session:
    """A share of a model's rate, served in batches of `target`."""

    model: int
    rate: float
    target: int


@dataclass
class Node:
    """What one GPU does in a cycle of `duty_s`."""

    sessions: list[Session]
    duty_s: float
    busy_s: float

    @property
    def occupancy(self) -> float:
        """Of the cycle."""
        return self.busy_s / self.duty_s


@dataclass
class Plan:
    """Nodes in the order in which GPUs get them, and the rates they were made for."""

    rates: list[float]
    nodes: list[Node] = field(default_factory=list)


def budget(fleet: Fleet, model: int, size: int) -> float:
    """Seconds that remain for waiting and running."""
    return fleet.models[model].slo_s - fleet.delays.response_s - fleet.lead(size)


def make_plan(fleet: Fleet, rates: Sequence[float]) -> Plan:
    """Full nodes first, then those shared by what is left of the rates; no more than GPUs are active."""
    full: list[Node] = []
    leftovers: list[Node] = []
    for model, rate in enumerate(rates):
        if rate == 0:
            continue
        sizes = range(1, fleet.largest(model) + 1)
        size = max((b for b in sizes if 2 * fleet.latency(model, b) <= budget(fleet, model, b)), default=1)
        busy_s = fleet.latency(model, size)
        count = math.floor(rate * busy_s / size)
        full += [Node([Session(model, rate, size)], busy_s, busy_s) for _ in range(count)]
        left = rate - count * size / busy_s
        if left > 1e-9 * rate:
            leftovers.append(leftover(fleet, model, left))
    shared: list[Node] = []
    for node in sorted(leftovers, key=lambda node: (-node.occupancy, node.sessions[0].model)):
        place(fleet, shared, node)
    nodes = full + sorted(shared, key=lambda node: -node.occupancy)
    return Plan(list(rates), nodes[: sum(gpu.state == "active" for gpu in fleet.gpus)])


def leftover(fleet: Fleet, model: int, rate: float) -> Node:
    """A node of its own for what is left of a rate."""
    sizes = range(1, fleet.largest(model) + 1)
    fits = (b for b in sizes if fleet.latency(model, b) + b / rate <= budget(fleet, model, b))
    size = max(fits, default=1)
    busy_s = fleet.latency(model, size)
    return Node([Session(model, rate, size)], max(size / rate, busy_s), busy_s)


def place(fleet: Fleet, shared: list[Node], node: Node) -> None:
    """Into the node that is fullest then, else as a new one."""
    best: tuple[float, int, Node] | None = None
    for index, other in enumerate(shared):
        both = merged(fleet, other, node)
        if both and (best is None or both.occupancy > best[0]):
            best = both.occupancy, index, both
    if best:
        shared[best[1]] = best[2]
    else:
        shared.append(node)


def merged(fleet: Fleet, node: Node, other: Node) -> Node | None:
    """Both in the shorter of their cycles; None if that is too much for it or too late for a session."""
    duty_s = min(node.duty_s, other.duty_s)
    sessions = []
    for session in node.sessions + other.sessions:
        size = min(max(1, math.ceil(duty_s * session.rate)), fleet.largest(session.model))
        if fleet.latency(session.model, size) + duty_s > budget(fleet, session.model, size):
            return None
        sessions.append(Session(session.model, session.rate, size))
    busy_s = sum(fleet.latency(session.model, session.target) for session in sessions)
    return Node(sessions, duty_s, busy_s) if busy_s <= duty_s else None
