"""A fleet behind one router: one loop over instants, each in the four steps of docs/simulator.md."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from servegym.costmodels.errors import InputError
from tests.reference import availability, endings, migration
from tests.reference.checks import check_replica
from tests.reference.history import History, Moment
from tests.reference.migration import Migration
from tests.reference.request import Request
from tests.reference.sendings import Roads, Sending, Sendings
from tests.reference.settings import FleetSettings
from tests.reference.view import Glance

Choose = Callable[[NDArray[np.float64], NDArray[np.float64]], int]


class Event(NamedTuple):
    """Something that happens to the fleet; of equal times, what was scheduled first happens first."""

    time_s: float
    number: int
    happen: Callable[[float], None]


@dataclass
class Fleet:
    """The state of a run: `replicas` are `Replica`s and `Encoder`s."""

    requests: list[Request]
    replicas: list[Any]
    choose: Choose
    speeds: list[float]
    settings: FleetSettings
    make: Callable[[int, str], Any]  # a replica like the first one with an engine, or an encoder
    check: bool = True
    upcoming: list[Request] = field(default_factory=list)  # arrivals whose time is known
    at_router: list[Request] = field(default_factory=list)
    migrations: list[Migration] = field(default_factory=list)
    sendings: Sendings = field(default_factory=Sendings)
    events: list[Event] = field(default_factory=list)
    num_events: int = 0
    put_away: list[Any] = field(default_factory=list)  # replicas and encoders that others stand for now
    last_arrival_s: float = math.nan
    views: list[NDArray[np.float64]] = field(default_factory=list)
    descriptions: list[NDArray[np.float64]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.history = History(self.replicas, self.sendings)
        self.upcoming = [r for r in self.requests if r.parent is None]
        for failure in self.settings.failures:
            number = failure.replica
            self.at(failure.time_s, lambda now_s, n=number: availability.fail(self, n, now_s))
            self.at(failure.until_s, lambda now_s, n=number: availability.recover(self, n))
        for time_s, wanted in self.settings.scaling:
            self.at(time_s, lambda now_s, w=wanted: availability.scale(self, w, now_s))
        if self.settings.rebalance:
            self.at(self.settings.rebalance_s, lambda now_s: self.rebalance(1, now_s))

    def run(self) -> None:
        """Serve everything."""
        before_s = -math.inf
        while True:
            now_s = self.next_instant()
            if now_s == math.inf:
                if not self.at_router:
                    break
                now_s = before_s  # nobody will ever be available for them; their blocks are free
                for request in list(self.at_router):
                    endings.end(self, request, "lost", now_s)
            assert now_s >= before_s, "time runs backwards"
            before_s = now_s
            self.complete_iterations(now_s)
            self.let_happen(now_s)
            self.route_requests(now_s)
            looks_back = self.settings.state_delay_s > 0
            before_starts = self.history.now() if looks_back else []
            self.start_iterations(now_s)
            if looks_back:
                self.history.moments.append(
                    Moment(now_s, before_starts, self.history.now(), self.sendings.now())
                )
            if self.check:
                self.check_blocks_and_queues()

    def next_instant(self) -> float:
        times = [replica.ends_s for replica in self.replicas]
        times += [r.arrival_s for r in self.upcoming] + [e.time_s for e in self.events]
        return min(times, default=math.inf)

    def at(self, time_s: float, happen: Callable[[float], None]) -> None:
        """Schedule a fleet event; it never comes where its time is infinite."""
        if time_s == math.inf:
            return
        self.num_events += 1
        self.events.append(Event(time_s, self.num_events, happen))
        self.events.sort(key=lambda e: (e.time_s, e.number))

    # The four steps of an instant.

    def complete_iterations(self, now_s: float) -> None:
        for replica in self.replicas:
            if replica.ends_s == now_s:
                for request in replica.end_iteration():
                    self.send_on(replica, request, now_s)
                for request in replica.leaving:
                    if request.place != "ended":
                        endings.end(self, request, "cancelled", now_s)
                replica.leaving = []
        for replica in self.replicas:
            if not replica.in_flight:
                stopping, replica.stopping = replica.stopping, []
                for moving in stopping:
                    migration.stop(self, moving, now_s)

    def let_happen(self, now_s: float) -> None:
        while self.events and self.events[0].time_s <= now_s:
            self.events.pop(0).happen(now_s)

    def route_requests(self, now_s: float) -> None:
        """Those at the router first, then arrivals; whoever finds no replica stays there."""
        for request in sorted((r for r in self.upcoming if r.arrival_s == now_s), key=lambda r: r.index):
            self.upcoming.remove(request)
            self.arrive(request, now_s)
        for request in list(self.at_router):
            allowed = [self.may_go(request, replica) for replica in self.replicas]
            if any(allowed):
                self.at_router.remove(request)
                self.send(request, self.ask_router(request, allowed, now_s), now_s)

    def start_iterations(self, now_s: float) -> None:
        for replica in self.replicas:
            if replica.woken and not replica.in_flight and not replica.failed:
                replica.start_iteration(now_s)

    # Arrivals.

    def arrive(self, request: Request, now_s: float) -> None:
        request.place = "router"
        request.gap_s = 0.0 if math.isnan(self.last_arrival_s) else now_s - self.last_arrival_s
        self.last_arrival_s = now_s
        self.at_router.append(request)
        self.at(now_s + request.cancel_after_s, lambda now_s: endings.cancel(self, request, now_s))

    def start_follow_ups(self, parent: Request) -> None:
        for request in self.requests:
            if request.parent is parent:
                request.caused_s = parent.finish_s
                request.arrival_s = parent.finish_s + request.think_s
                self.upcoming.append(request)

    def come_to_router(self, request: Request, now_s: float) -> None:
        """A request comes back, to be routed again."""
        request.place, request.caused_s = "router", now_s
        self.at_router.append(request)

    def send_on(self, replica: Any, request: Request, now_s: float) -> None:
        """What becomes of a request that an iteration has served."""
        if request.outcome == "finished":
            self.start_follow_ups(request)
        elif replica.role == "encode":
            self.come_to_router(request, now_s)
        elif replica.role == "prefill" and request.decoding:
            replica.running.remove(request)
            self.come_to_router(request, now_s)

    # Routing.

    def stage(self, request: Request) -> str:
        """What a request at the router needs next."""
        encoders = any(replica.role == "encode" for replica in self.replicas)
        if request.image_tokens and not request.encoded and encoders:
            return "encode"
        return "decode" if request.computed else "prefill"

    def may_go(self, request: Request, replica: Any) -> bool:
        return replica.available and self.suits(request, self.stage(request), replica)

    def suits(self, request: Request, stage: str, replica: Any) -> bool:
        """Whether a replica has the role for this stage, and room for the request when it is alone."""
        splits = any(r.role == "decode" for r in self.replicas)
        roles = {
            "encode": ("encode",),
            "prefill": ("mixed", "prefill"),
            "decode": ("decode",) if splits else ("mixed",),
        }[stage]
        if replica.role not in roles:
            return False
        return stage == "encode" or not replica.why_unfit(request)

    def ask_router(self, request: Request, allowed: list[bool], now_s: float) -> int:
        """The replica that the router chooses; raises `InputError` for one that is not available."""
        seen_s, glances, roads = self.glances(request.caused_s, now_s)
        view = np.array(
            [
                glance.row(
                    seen_s,
                    available,
                    replica.glance().hit_tokens(request),
                    1.0 if replica.role == "encode" else speed,
                    self.sendings.unseen(roads, replica.number),
                    availability.standing(self, replica),
                    replica.role,
                )
                for glance, available, replica, speed in zip(
                    glances, allowed, self.replicas, self.speeds, strict=True
                )
            ],
            dtype=np.float64,
        )
        about = np.array(
            [
                request.prompt_tokens,
                request.predicted_output_tokens,
                request.gap_s,
                request.priority,
                request.session,
                request.prefix,
            ],
            dtype=np.float64,
        )
        self.views.append(view)
        self.descriptions.append(about)
        chosen = int(self.choose(view.copy(), about.copy()))
        if not (0 <= chosen < len(self.replicas) and allowed[chosen]):
            raise InputError(
                f"choose: replica {chosen} for request {request.index}, "
                f"available are {[number for number, yes in enumerate(allowed) if yes]}"
            )
        return chosen

    def glances(self, caused_s: float, now_s: float) -> tuple[float, list[Glance], Roads]:
        """The instant that is seen because of something at `caused_s`, and what is seen of every replica.

        And what was on its way then.
        """
        seen_s = max(now_s - self.settings.state_delay_s, caused_s)
        if seen_s < now_s:
            return seen_s, *self.history.at(seen_s)
        return now_s, self.history.now(), self.sendings.now()

    def send(self, request: Request, chosen: int, now_s: float) -> None:
        """On its way: with its KV over the link, or as it came, after the latency of dispatch."""
        target = self.replicas[chosen]
        request.journey += 1
        journey, request.replica = request.journey, chosen
        request.rank_memory = None
        prefills = not request.computed and target.role != "encode"
        sending = Sending(chosen, request.known if prefills else 0)
        self.sendings.sent.append(sending)
        request.sending = sending
        if request.computed:
            source = self.replicas[request.holder]

            def kv_arrived(now_s: float) -> None:
                if request.journey == journey:
                    sending.on_way = False
                    source.release(request)
                    request.brought = True
                    target.enqueue(request, now_s)

            request.place = "link"
            self.at(source.link.send(len(request.table), now_s), kv_arrived)
        elif self.settings.dispatch_latency_s:

            def arrived(now_s: float) -> None:
                if request.journey == journey:
                    sending.on_way = False
                    target.enqueue(request, now_s)

            request.place = "dispatch"
            self.at(now_s + self.settings.dispatch_latency_s, arrived)
        else:
            sending.on_way = False
            target.enqueue(request, now_s)

    # Migration.

    def rebalance(self, turn: int, now_s: float) -> None:
        """Start the migrations that the rule wants, and come again as long as there is work."""
        assert self.settings.rebalance is not None
        for request, target in self.settings.rebalance(now_s, self):
            migration.start(self, request, target, now_s)
        serving = any(r.present() and (r.in_flight or r.woken) for r in self.replicas)
        routable = any(self.may_go(r, replica) for r in self.at_router for replica in self.replicas)
        if serving or routable or self.upcoming or self.events:
            next_s = (turn + 1) * self.settings.rebalance_s
            self.at(next_s, lambda now_s: self.rebalance(turn + 1, now_s))

    # Invariants.

    def check_blocks_and_queues(self) -> None:
        for replica in self.replicas:
            if replica.role != "encode":
                reserved = [b for m in self.migrations if m.target is replica for b in m.reserved]
                sending = [
                    r
                    for r in self.requests
                    if r.place in ("router", "link") and r.table and r.holder == replica.number
                ]
                check_replica(replica, reserved, sending)
