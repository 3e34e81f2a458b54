"""A replica with the role `encode`: one image at a time, first come first served."""

import math

from tests.reference.member import Member
from tests.reference.request import Request
from tests.reference.settings import FleetSettings, ReplicaSpec
from tests.reference.view import Glance


def encode_s(settings: FleetSettings, request: Request) -> float:
    """Seconds to encode the images of a request; 0 without any."""
    if not request.image_tokens:
        return 0.0
    return settings.encode_overhead_s + request.image_tokens * settings.encode_s_per_token


class Encoder(Member):
    """Its iteration is the encoding of one request."""

    def __init__(self, number: int, spec: ReplicaSpec, settings: FleetSettings) -> None:
        super().__init__(number, spec)
        self.settings = settings
        self.in_flight: Request | None = None
        self.end_s = math.inf

    @property
    def ends_s(self) -> float:
        return self.end_s if self.in_flight else math.inf

    def enqueue(self, request: Request, now_s: float) -> None:
        self.waiting.append(request)
        request.place, request.replica, self.woken = "waiting", self.number, True

    def present(self) -> list[Request]:
        return ([self.in_flight] if self.in_flight else []) + self.waiting

    def start_iteration(self, now_s: float) -> None:
        self.woken = False
        if self.waiting:
            self.in_flight = self.waiting.pop(0)
            self.in_flight.place = "running"
            self.end_s = now_s + encode_s(self.settings, self.in_flight)

    def end_iteration(self) -> list[Request]:
        assert self.in_flight is not None
        request, self.in_flight, self.woken = self.in_flight, None, True
        request.encoded = True
        return [request]

    def take_out(self, request: Request) -> None:
        """The request is no longer here."""
        if request is self.in_flight:
            self.in_flight = None
        else:
            self.waiting.remove(request)
        self.woken = True

    def clear(self) -> None:
        """After a failure, or when it is started: as new."""
        self.waiting, self.leaving, self.in_flight = [], [], None

    def glance(self) -> Glance:
        known = sum(r.known for r in self.present())
        running = int(self.in_flight is not None)
        ends_s = self.end_s if self.in_flight else -math.inf
        urgent = sum(r.urgent for r in self.present())
        first = self.waiting[0].known if self.waiting else 0
        return Glance(
            running, len(self.waiting), 0, known, 0, 0, 0, ends_s, 0.0, 0.0, urgent, first, (), None
        )
