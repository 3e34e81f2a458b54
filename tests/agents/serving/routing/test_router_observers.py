"""Observers of a router are told of every request once, whatever becomes of it, and cannot stop it."""

import logging
from typing import Any

import pytest

from servegym.agents.serving.routing.fleet_view import (
    DECODE_CONTEXT_TOKENS,
    KV_USED_BLOCKS,
    RUNNING,
    WAITING,
    FleetView,
)
from servegym.agents.serving.routing.least_loaded import LeastLoaded
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import Router


class Failing:
    """An observer whose disk is full."""

    def decided(self, *_: Any) -> None:
        raise OSError("no space left on device")

    refused = ended = decided


class Ended:
    """Remembers who ended, after how long, and with how many tokens from when on."""

    def __init__(self) -> None:
        self.latencies_s: dict[str, float] = {}
        self.tokens: dict[str, tuple[int, float]] = {}

    def decided(self, *_: Any) -> None:
        pass

    refused = decided

    def ended(self, request_id: str, tokens: int, ttft_s: float, latency_s: float, ok: bool) -> None:
        assert request_id not in self.latencies_s
        self.latencies_s[request_id] = latency_s
        self.tokens[request_id] = (tokens, ttft_s)


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


def test_nobody_is_told_of_tokens_or_times_that_are_not_known() -> None:
    now_s = [0.0]
    ended = Ended()
    router = Router(LeastLoaded(), FleetView("a"), observers=[ended], clock=lambda: now_s[0])
    for name in ("unseen", "seen", "counted", "seen anew", "none"):
        router.route(RoutedRequest(name, 10.0))
    now_s[0] = 1.0
    router.began("unseen")
    router.tokens("seen", 2)
    router.tokens("seen anew", 2)
    router.sent(RoutedRequest("seen anew", 10.0), "a")
    assert router.fleet.rows(1.0)[0, [RUNNING, WAITING, DECODE_CONTEXT_TOKENS]].tolist() == [2, 3, 21]
    now_s[0] = 2.0
    router.tokens("seen", 3, just_now=False)
    router.tokens("counted", 7, just_now=False)
    router.tokens("counted", 1)
    assert router.fleet.rows(2.0)[0, [RUNNING, WAITING, DECODE_CONTEXT_TOKENS]].tolist() == [3, 2, 41]
    for name in ("unseen", "seen", "counted", "seen anew", "none"):
        router.ended(name)
    unknown = (-1, pytest.approx(float("nan"), nan_ok=True))
    assert ended.tokens == {
        "unseen": unknown,
        "seen": (5, 1.0),
        "counted": (8, unknown[1]),
        "seen anew": unknown,
        "none": unknown,
    }
    assert not router.fleet.rows(2.0)[0, RUNNING : KV_USED_BLOCKS + 1].any()
