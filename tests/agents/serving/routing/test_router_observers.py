"""Observers of a router are told of every request once, whatever becomes of it, and cannot stop it."""

import logging
from typing import Any

import pytest

from servegym.agents.serving.routing.fleet_view import FleetView
from servegym.agents.serving.routing.least_loaded import LeastLoaded
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import Router


class Failing:
    """An observer whose disk is full."""

    def decided(self, *_: Any) -> None:
        raise OSError("no space left on device")

    refused = ended = decided


class Ended:
    """Remembers who ended, and after how long."""

    def __init__(self) -> None:
        self.latencies_s: dict[str, float] = {}

    def decided(self, *_: Any) -> None:
        pass

    refused = decided

    def ended(self, request_id: str, tokens: int, ttft_s: float, latency_s: float, ok: bool) -> None:
        assert request_id not in self.latencies_s
        self.latencies_s[request_id] = latency_s


def test_a_failing_observer_stops_neither_requests_nor_other_observers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = Ended()
    router = Router(LeastLoaded(), FleetView("ab"), observers=[Failing(), ended])
    with caplog.at_level(logging.WARNING):
        for i in range(3):
            router.route(RoutedRequest(str(i), 10.0))
            router.ended(str(i))
    assert sorted(ended.latencies_s) == ["0", "1", "2"]
    assert router.fleet.num_under_way == 0
    assert caplog.text.count("Failing failed: OSError: no space left on device") == 1


def test_who_is_sent_anew_has_waited_since_the_first_time() -> None:
    now_s = [0.0]
    ended = Ended()
    router = Router(LeastLoaded(), FleetView("ab"), observers=[ended], clock=lambda: now_s[0])
    request = RoutedRequest("0", 10.0)
    first = router.route(request).replica
    now_s[0] = 2.0
    router.sent(request, "b" if first == "a" else "a")
    now_s[0] = 5.0
    router.ended("0")
    assert ended.latencies_s == {"0": 5.0}
