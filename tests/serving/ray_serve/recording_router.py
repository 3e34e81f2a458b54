"""A request router that remembers. Serve copies this module to its processes: what is kept, others keep."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from servegym.agents.serving.plugins.ray_serve import ServegymRouter
from servegym.agents.serving.routing.fleet_view import FleetView
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import Decision, Router
from tests.serving.ray_serve import recordings


class RecordingRouter(ServegymRouter):
    """Serves what it is `wanted` to, and adds itself to `recordings.made`.

    decisions: in order. outcomes: requests that have ended, and whether well. num_refused: how often nobody
    was available.
    """

    wanted = recordings.Wanted()

    def make_router(self, config: str | Mapping[str, Any], replicas: list[str]) -> Router:
        self.decisions: list[recordings.Decided] = []
        self.outcomes: list[tuple[str, bool]] = []
        self.num_refused = 0
        wanted = self.wanted
        if wanted.policy is None:
            self.books = super().make_router(wanted.config or config, replicas)
            self.books.observers.append(self)
        else:
            fleet = FleetView(replicas, report_max_age_s=5.0)
            self.books = Router(wanted.policy, fleet, observers=[self], **wanted.options)
        if self not in recordings.made:
            recordings.made.append(self)
        return self.books

    def begin_anew(self, wanted: recordings.Wanted) -> "RecordingRouter":
        """Serves by another policy from the next routing stats on; comes back when it does."""
        self.wanted = wanted
        before = self.books
        self._event_loop.call_soon_threadsafe(self._forget_everything)
        while self.books is before:
            time.sleep(0.01)
        return self

    def _forget_everything(self) -> None:
        self._router = None
        self._told = {}

    def decided(
        self, decision: Decision, request: RoutedRequest, features: np.ndarray, replicas: np.ndarray
    ) -> None:
        self.decisions.append(
            recordings.Decided(
                decision,
                decision.ranked,
                request,
                features.copy(),
                replicas.copy(),
                tuple(self.books.fleet.names),
            )
        )

    def refused(self, request: RoutedRequest) -> None:
        self.num_refused += 1

    def ended(self, request_id: str, output_tokens: int, ttft_s: float, latency_s: float, ok: bool) -> None:
        self.outcomes.append((request_id, ok))
