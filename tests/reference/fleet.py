"""A fleet behind one router: one loop over instants, each in the four steps of docs/simulator.md."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from servegym.costmodels.errors import InputError
from tests.reference.checks import check_end, check_replica
from tests.reference.cost import iteration_s
from tests.reference.engine import Engine
from tests.reference.log import Iteration, Preemption
from tests.reference.lookup import LookupCost
from tests.reference.replica import Replica
from tests.reference.request import Request, requests_of
from tests.reference.view import REFERENCE_TOKENS, Glance, glance_at

Choose = Callable[[NDArray[np.float64], NDArray[np.float64]], int]


@dataclass(frozen=True)
class ReplicaSpec:
    """One replica of a fleet."""

    engine: Engine
    cost: Any


class Event(NamedTuple):
    """Something that happens to the fleet; of equal times, what was scheduled first happens first."""

    time_s: float
    number: int
    happen: Callable[[float], None]


@dataclass
class FleetResult:
    """One entry per request in workload order, what the router saw, and a log of every replica."""

    replica: NDArray[np.int64]
    scheduled_s: NDArray[np.float64]
    first_token_s: NDArray[np.float64]
    finish_s: NDArray[np.float64]
    cancelled_s: NDArray[np.float64]
    preemptions: NDArray[np.int64]
    retries: NDArray[np.int64]
    migrations: NDArray[np.int64]
    hit_tokens: NDArray[np.int64]
    outcome: list[str]
    views: list[NDArray[np.float64]]
    requests: list[NDArray[np.float64]]
    iterations: list[list[Iteration]]
    preempted: list[list[Preemption]]


@dataclass
class Fleet:
    """The state of a run."""

    requests: list[Request]
    replicas: list[Replica]
    choose: Choose
    speeds: list[float]
    upcoming: list[Request] = field(default_factory=list)  # arrivals whose time is known
    at_router: list[Request] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    check: bool = True
    num_events: int = 0
    last_arrival_s: float = math.nan
    views: list[NDArray[np.float64]] = field(default_factory=list)
    descriptions: list[NDArray[np.float64]] = field(default_factory=list)

    def run(self) -> None:
        """Serve everything."""
        self.upcoming = [r for r in self.requests if r.parent is None]
        before_s = -math.inf
        while True:
            now_s = self.next_instant()
            if now_s == math.inf:
                break
            assert now_s >= before_s, "time runs backwards"
            before_s = now_s
            self.complete_iterations(now_s)
            self.let_happen(now_s)
            self.route_arrivals(now_s)
            self.start_iterations(now_s)
            if self.check:
                for replica in self.replicas:
                    check_replica(replica)

    def next_instant(self) -> float:
        times = [r.in_flight.end_s for r in self.replicas if r.in_flight]
        times += [r.arrival_s for r in self.upcoming] + [e.time_s for e in self.events]
        return min(times, default=math.inf)

    def at(self, time_s: float, happen: Callable[[float], None]) -> None:
        """Schedule a fleet event."""
        self.num_events += 1
        self.events.append(Event(time_s, self.num_events, happen))
        self.events.sort(key=lambda e: (e.time_s, e.number))

    # The four steps of an instant.

    def complete_iterations(self, now_s: float) -> None:
        for replica in self.replicas:
            if replica.in_flight and replica.in_flight.end_s == now_s:
                served = list(replica.batch)
                replica.end_iteration()
                for request in served:
                    if request.outcome == "finished":
                        self.start_follow_ups(request)

    def let_happen(self, now_s: float) -> None:
        while self.events and self.events[0].time_s <= now_s:
            self.events.pop(0).happen(now_s)

    def route_arrivals(self, now_s: float) -> None:
        for request in sorted((r for r in self.upcoming if r.arrival_s == now_s), key=lambda r: r.index):
            self.upcoming.remove(request)
            request.place = "router"
            request.gap_s = 0.0 if math.isnan(self.last_arrival_s) else now_s - self.last_arrival_s
            self.last_arrival_s = now_s
            self.at_router.append(request)
        for request in list(self.at_router):
            self.route(request, now_s)

    def start_iterations(self, now_s: float) -> None:
        for replica in self.replicas:
            if not replica.in_flight and replica.woken:
                replica.start_iteration(now_s)

    # Routing.

    def route(self, request: Request, now_s: float) -> None:
        """Send it where the router wants it."""
        allowed = [self.may_serve(replica, request) for replica in self.replicas]
        rows = [
            glance.row(now_s, request, available, speed)
            for glance, available, speed in zip(self.glances(now_s), allowed, self.speeds, strict=True)
        ]
        view = np.array(rows, dtype=np.float64)
        about = np.array(
            [request.prompt_tokens, request.predicted_output_tokens, request.gap_s, request.priority],
            dtype=np.float64,
        )
        self.views.append(view)
        self.descriptions.append(about)
        chosen = int(self.choose(view.copy(), about.copy()))
        if not (0 <= chosen < len(self.replicas) and allowed[chosen]):
            raise InputError(
                f"choose: replica {chosen} for request {request.index}, not an available one "
                f"of {len(self.replicas)}"
            )
        self.at_router.remove(request)
        self.replicas[chosen].enqueue(request)

    def may_serve(self, replica: Replica, request: Request) -> bool:
        return not why_unfit(replica, request)

    def glances(self, now_s: float) -> list[Glance]:
        return [glance_at(replica) for replica in self.replicas]

    # Sessions.

    def start_follow_ups(self, parent: Request) -> None:
        for request in self.requests:
            if request.parent is parent:
                request.arrival_s = request.caused_s = parent.finish_s
                request.arrival_s += request.think_s
                self.upcoming.append(request)


def why_unfit(replica: Replica, request: Request) -> str:
    return replica.engine.why_unfit(request.prompt_tokens, request.output_tokens, request.max_output_tokens)


def simulate_fleet(
    workload: Any, choose: Choose, *, replicas: Sequence[ReplicaSpec], check: bool = True
) -> FleetResult:
    """Serve a workload to its end, asserting the invariants on the way (`check`: also at every instant).

    `workload` is anything with the columns of `Workload`; `choose(replicas (R, 13), request (4,)) ->
    replica` is called whenever a request is routed. Raises `InputError` for a workload or a choice that
    the specification does not allow.
    """
    if not replicas:
        raise InputError("num_replicas: 0, at least 1 is needed")
    requests = requests_of(workload)
    engines = [Replica(number, spec.engine, spec.cost) for number, spec in enumerate(replicas)]
    for request in requests:
        reasons = [why_unfit(replica, request) for replica in engines]
        if all(reasons):
            raise InputError(f"request {request.index}: {reasons[0]}")
    fleet = Fleet(requests, engines, choose, speeds(replicas), check=check)
    fleet.run()
    check_end(requests, engines)
    return FleetResult(
        replica=np.array([r.replica for r in requests], dtype=np.int64),
        scheduled_s=np.array([r.scheduled_s for r in requests]),
        first_token_s=np.array([r.first_token_s for r in requests]),
        finish_s=np.array([r.finish_s for r in requests]),
        cancelled_s=np.array([r.cancelled_s for r in requests]),
        preemptions=np.array([r.preemptions for r in requests], dtype=np.int64),
        retries=np.array([r.retries for r in requests], dtype=np.int64),
        migrations=np.array([r.migrations for r in requests], dtype=np.int64),
        hit_tokens=np.array([r.hit_tokens for r in requests], dtype=np.int64),
        outcome=[r.outcome for r in requests],
        views=fleet.views,
        requests=fleet.descriptions,
        iterations=[replica.log for replica in engines],
        preempted=[replica.preemption_log for replica in engines],
    )


def speeds(replicas: Sequence[ReplicaSpec]) -> list[float]:
    """Seconds of the reference iteration on the first replica over those on each."""
    tokens = min(REFERENCE_TOKENS, *(spec.engine.max_num_batched_tokens for spec in replicas))
    seconds = [
        1.0 if isinstance(spec.cost, LookupCost) else iteration_s(spec.cost, [(tokens, 0)], 0, 0, 1)
        for spec in replicas
    ]
    if not min(seconds) > 0:
        raise InputError(f"cost: an iteration of {min(seconds)} s, must be longer than 0")
    return [seconds[0] / s for s in seconds]
