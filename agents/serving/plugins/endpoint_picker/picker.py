"""What all requests at an endpoint picker share: the router, and the limits on what is taken."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from servegym.agents.serving.plugins.endpoint_picker.messages import Refused
from servegym.agents.serving.routing.request_features import parse_openai
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import NoReplicaError, Router
from servegym.costmodels.errors import InputError

_LOG = logging.getLogger("servegym.endpoint_picker")


@dataclass(frozen=True)
class Limits:
    """What a picker takes, and how long it waits.

    max_body_bytes: of a request. max_streams: HTTP requests under way at a time. body_timeout_s: from the
    first part of a request to its last. idle_timeout_s: between parts of an answer. max_waiting: requests
    that wait at every replica before those of a priority above 0 are refused; None: none is. num_fallbacks:
    endpoints named beside the best one. drain_s: how long requests under way may take when the picker is to
    end.
    """

    max_body_bytes: int = 4 << 20
    max_streams: int = 4096
    body_timeout_s: float = 30.0
    idle_timeout_s: float = 900.0
    max_waiting: int | None = None
    num_fallbacks: int = 2
    drain_s: float = 10.0

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "max_streams", "body_timeout_s", "idle_timeout_s"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} = {getattr(self, name)}: must be > 0")
        for name in ("max_waiting", "num_fallbacks", "drain_s"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise InputError(f"{name} = {value}: must be >= 0")


class Picker:
    """Chooses endpoints for requests and keeps the router's books of them."""

    def __init__(self, router: Router, limits: Limits) -> None:
        self.router, self.limits = router, limits
        self._under_way: set[str] = set()
        self._count = 0

    def pick(
        self, body: bytes, headers: dict[str, str], subset: Sequence[str] | None
    ) -> tuple[RoutedRequest, tuple[str, ...]]:
        """The request, which counts as sent, and its endpoints, best first.

        subset: endpoints it may go to, None: all. Refused: 413 for a body that is too large, 429 where the
        load is, 503 where no replica is available.
        """
        self.check_size(len(body))
        request = self._named_apart(parse_openai(body, headers))
        if request.priority > 0 and self._is_busy(subset):
            raise Refused(429, "all replicas are busy")
        try:
            decision = self.router.route(request, subset)
        except NoReplicaError:
            raise Refused(503, "no replica is available") from None
        self._under_way.add(request.request_id)
        return request, decision.ranked[: 1 + self.limits.num_fallbacks]

    def check_size(self, num_bytes: int) -> None:
        """Refused (413) where a body is larger than it may be."""
        if num_bytes > self.limits.max_body_bytes:
            raise Refused(413, f"the body is larger than {self.limits.max_body_bytes} bytes")

    def served(self, request: RoutedRequest, endpoint: str) -> None:
        """The answer comes from an endpoint that is not the one that was chosen."""
        if endpoint in self.router.fleet.index:
            self.router.sent(request, endpoint)

    def ended(self, request: RoutedRequest, ok: bool) -> None:
        """A request is over."""
        self._under_way.discard(request.request_id)
        self.router.ended(request.request_id, ok)

    @property
    def num_under_way(self) -> int:
        """Requests that were sent somewhere and have not ended."""
        return len(self._under_way)

    def _is_busy(self, subset: Sequence[str] | None) -> bool:
        most = self.limits.max_waiting
        return most is not None and self.router.least_waiting(subset) > most

    def _named_apart(self, request: RoutedRequest) -> RoutedRequest:
        """Clients choose names, and may choose the same one twice."""
        if request.request_id not in self._under_way:
            return request
        self._count += 1
        return request._replace(request_id=f"{request.request_id}#{self._count}")
