"""What a picker tells a proxy, part by part, and what its router then believes; without a proxy."""

import random

import numpy as np
import pytest

from servegym.agents.serving.artifact.protobuf import fields, message, number, text
from servegym.agents.serving.plugins.endpoint_picker.answer_tokens import AnswerTokens
from servegym.agents.serving.plugins.endpoint_picker.exchange import Exchange
from servegym.agents.serving.plugins.endpoint_picker.messages import (
    BUFFERED,
    BUFFERED_PARTIAL,
    FULL_DUPLEX_STREAMED,
    NONE,
    REQUEST_BODY,
    REQUEST_HEADERS,
    REQUEST_TRAILERS,
    RESPONSE_BODY,
    RESPONSE_HEADERS,
    RESPONSE_TRAILERS,
    STREAMED,
    MessageError,
    Part,
    Refused,
    go_on,
    go_to,
    read_part,
    refusal,
    same_body,
)
from servegym.agents.serving.plugins.endpoint_picker.picker import Limits, Picker
from servegym.agents.serving.routing.fleet_view import RUNNING, WAITING, FleetView
from servegym.agents.serving.routing.least_loaded import LeastLoaded
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import Decision, Router
from servegym.costmodels.errors import InputError

NAMES = ("a:1", "b:2", "c:3")
BODY = b'{"prompt": "0123456789abcdef", "stream": true}'
EVENT = b'data: {"choices": [{"text": "x"}]}\n\n'
STREAM = {":status": "200", "content-type": "text/event-stream; charset=utf-8"}


class Ends:
    """An observer that keeps what became of requests."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.ended_ones: list[tuple[str, int, bool]] = []
        self.ttfts_s: list[float] = []
        self.num_refused = 0

    def decided(
        self, decision: Decision, request: RoutedRequest, features: np.ndarray, replicas: np.ndarray
    ) -> None:
        self.decisions.append(decision)

    def refused(self, request: RoutedRequest) -> None:
        self.num_refused += 1

    def ended(self, request_id: str, output_tokens: int, ttft_s: float, latency_s: float, ok: bool) -> None:
        self.ended_ones.append((request_id, output_tokens, ok))
        self.ttfts_s.append(ttft_s)


def picker(**limits: int) -> tuple[Picker, Ends]:
    ends = Ends()
    router = Router(LeastLoaded(), FleetView(NAMES), deadline_s=None, observers=[ends])
    return Picker(router, Limits(**limits)), ends  # type: ignore[arg-type]


def headers(
    *, last: bool = False, request_mode: int = BUFFERED, response_mode: int = NONE, **more: str
) -> Part:
    said = {"x-request-id": "r", **more}
    return Part(REQUEST_HEADERS, said, b"", last, None, "", request_mode, response_mode)


def body(content: bytes = BODY, *, last: bool = True, kind: int = REQUEST_BODY) -> Part:
    return Part(kind, {}, content, last)


def books(of: Picker) -> np.ndarray:
    return of.router.fleet.rows(of.router.clock()).copy()


@pytest.mark.parametrize("mode", [BUFFERED, BUFFERED_PARTIAL])
def test_a_buffered_body_brings_the_decision(mode: int) -> None:
    pick, ends = picker()
    exchange = Exchange(pick)
    assert exchange.answers(headers(request_mode=mode)) == [go_on(REQUEST_HEADERS)]
    assert not exchange.is_decided
    assert exchange.answers(body()) == [go_to(REQUEST_BODY, "a:1,b:2,c:3")]
    assert exchange.is_decided
    assert [decision.replica for decision in ends.decisions] == ["a:1"]


@pytest.mark.parametrize("mode", [NONE, STREAMED])
def test_a_body_that_is_not_waited_for_is_decided_without(mode: int) -> None:
    exchange = Exchange(picker()[0])
    assert exchange.answers(headers(request_mode=mode)) == [go_to(REQUEST_HEADERS, "a:1,b:2,c:3")]
    assert exchange.answers(body()) == [go_on(REQUEST_BODY)]


def test_a_request_without_a_body_is_decided_at_once() -> None:
    assert Exchange(picker()[0]).answers(headers(last=True)) == [go_to(REQUEST_HEADERS, "a:1,b:2,c:3")]


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("trailers", [True, False])
def test_a_streamed_body_waits_here_for_its_end(said: bool, trailers: bool) -> None:
    pick, ends = picker(num_fallbacks=0)
    exchange = Exchange(pick)
    first = headers(request_mode=FULL_DUPLEX_STREAMED)
    if not said:
        first = first._replace(request_body_mode=None, response_body_mode=None)
    assert exchange.answers(first) == []
    assert exchange.answers(body(BODY[:10], last=False)) == []
    if trailers:
        assert exchange.answers(body(BODY[10:], last=False)) == []
        answers = exchange.answers(Part(REQUEST_TRAILERS, {}, b"", True))
        assert answers.pop() == go_on(REQUEST_TRAILERS)
    else:
        answers = exchange.answers(body(BODY[10:]))
    assert answers == [go_to(REQUEST_HEADERS, "a:1"), *same_body(REQUEST_BODY, BODY, not trailers)]
    assert len(ends.decisions) == 1


@pytest.mark.parametrize("response_mode", [STREAMED, FULL_DUPLEX_STREAMED])
def test_tokens_are_counted_and_handed_on(response_mode: int) -> None:
    pick, ends = picker()
    exchange = Exchange(pick)
    exchange.answers(headers(response_mode=response_mode))
    exchange.answers(body())
    assert books(pick)[0, [WAITING, RUNNING]].tolist() == [1, 0]
    assert exchange.answers(Part(RESPONSE_HEADERS, STREAM)) == [go_on(RESPONSE_HEADERS)]
    whole = EVENT * 3 + b"data: [DONE]\n\n"
    for at in range(0, len(whole), 7):
        part = body(whole[at : at + 7], last=at + 7 >= len(whole), kind=RESPONSE_BODY)
        answers = exchange.answers(part)
        streamed = same_body(RESPONSE_BODY, part.body, part.is_last)
        assert answers == (streamed if response_mode == FULL_DUPLEX_STREAMED else [go_on(RESPONSE_BODY)])
    assert ends.ended_ones == [("r", 3, True)]
    assert np.isfinite(ends.ttfts_s).all()
    assert pick.num_under_way == 0
    assert not books(pick)[:, [WAITING, RUNNING]].any()
    exchange.close()
    assert len(ends.ended_ones) == 1


def test_an_answer_that_is_not_shown_has_begun_with_its_headers() -> None:
    pick, ends = picker()
    exchange = Exchange(pick)
    exchange.answers(headers())
    exchange.answers(body())
    exchange.answers(Part(RESPONSE_HEADERS, STREAM))
    assert books(pick)[0, [WAITING, RUNNING]].tolist() == [0, 1]
    assert ends.ended_ones == []
    exchange.answers(Part(RESPONSE_TRAILERS, {}, b"", True))
    assert ends.ended_ones == [("r", -1, True)]
    assert np.isnan(ends.ttfts_s).all()


@pytest.mark.parametrize("response_mode", [STREAMED, BUFFERED, FULL_DUPLEX_STREAMED])
@pytest.mark.parametrize("count", [0, 2])
def test_an_answer_that_is_cut_off_has_failed(response_mode: int, count: int) -> None:
    pick, ends = picker()
    exchange = Exchange(pick)
    exchange.answers(headers(response_mode=response_mode))
    exchange.answers(body())
    exchange.answers(Part(RESPONSE_HEADERS, STREAM))
    for _ in range(count):
        exchange.answers(body(EVENT, last=False, kind=RESPONSE_BODY))
    exchange.close()
    assert ends.ended_ones == [("r", count or -1, False)]
    assert not books(pick)[:, [WAITING, RUNNING]].any()


def test_a_proxy_that_does_not_say_how_it_sends_bodies_may_send_none() -> None:
    pick, ends = picker()
    for parts, ok in (
        ([], True),
        ([body(EVENT, last=False, kind=RESPONSE_BODY)], False),
        ([body(EVENT, kind=RESPONSE_BODY)], True),
    ):
        exchange = Exchange(pick)
        exchange.answers(headers(last=True)._replace(request_body_mode=None, response_body_mode=None))
        for part in (Part(RESPONSE_HEADERS, STREAM), *parts):
            exchange.answers(part)
        exchange.close()
        assert ends.ended_ones.pop() == ("r", len(parts) or -1, ok)


@pytest.mark.parametrize("trailers", [True, False])
@pytest.mark.parametrize(
    ("mode", "kind"), [(STREAMED, "application/json"), (BUFFERED, STREAM["content-type"])]
)
def test_the_time_of_the_first_token_of_a_whole_answer_is_not_known(
    mode: int, kind: str, trailers: bool
) -> None:
    pick, ends = picker()
    exchange = Exchange(pick)
    exchange.answers(headers(response_mode=mode))
    exchange.answers(body())
    exchange.answers(Part(RESPONSE_HEADERS, {":status": "200", "content-type": kind}))
    answer = EVENT * 5 if mode == BUFFERED else b'{"usage": {"completion_tokens": 5}}'
    exchange.answers(body(answer, last=not trailers, kind=RESPONSE_BODY))
    if trailers:
        exchange.answers(Part(RESPONSE_TRAILERS, {}, b"", True))
    assert ends.ended_ones == [("r", 5, True)]
    assert np.isnan(ends.ttfts_s).all()


def test_trailers_of_a_request_are_not_the_end_of_its_answer() -> None:
    pick, ends = picker()
    exchange = Exchange(pick)
    exchange.answers(headers(response_mode=STREAMED))
    exchange.answers(body(last=False))
    assert exchange.answers(Part(REQUEST_TRAILERS, {}, b"", True)) == [go_on(REQUEST_TRAILERS)]
    assert ends.ended_ones == [] and pick.num_under_way == 1
    exchange.answers(Part(RESPONSE_HEADERS, STREAM, is_last=True))
    assert ends.ended_ones == [("r", -1, True)]


@pytest.mark.parametrize(("status", "ok"), [("200", True), ("404", False), ("503", False), ("", False)])
def test_a_request_ends_once_when_the_stream_does(status: str, ok: bool) -> None:
    pick, ends = picker()
    exchange = Exchange(pick)
    exchange.answers(headers())
    exchange.answers(body())
    if status:
        exchange.answers(Part(RESPONSE_HEADERS, {":status": status}))
    exchange.close()
    exchange.close()
    assert [(name, succeeded) for name, _, succeeded in ends.ended_ones] == [("r", ok)]
    assert not books(pick)[:, [WAITING, RUNNING]].any()


def test_what_ends_before_a_decision_was_never_sent() -> None:
    pick, ends = picker()
    exchange = Exchange(pick)
    exchange.answers(headers())
    exchange.close()
    assert ends.ended_ones == []
    assert ends.decisions == []


def test_the_books_follow_a_request_that_was_served_elsewhere() -> None:
    pick, _ = picker()
    exchange = Exchange(pick)
    exchange.answers(headers())
    exchange.answers(body())
    exchange.answers(Part(RESPONSE_HEADERS, STREAM, served="c:3"))
    assert books(pick)[:, RUNNING].tolist() == [0, 0, 1]
    assert books(pick)[:, WAITING].tolist() == [0, 0, 0]
    exchange.close()
    assert not books(pick)[:, RUNNING].any()


@pytest.mark.parametrize("served", ["a:1", "unknown:9", ""])
def test_the_books_stay_where_nothing_else_is_known(served: str) -> None:
    pick, _ = picker()
    exchange = Exchange(pick)
    exchange.answers(headers())
    exchange.answers(body())
    exchange.answers(Part(RESPONSE_HEADERS, STREAM, served=served))
    assert books(pick)[:, RUNNING].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("subset", "endpoints"), [(("c:3",), "c:3"), (("x:1", "b:2"), "b:2"), (("c:3", "b:2"), "b:2,c:3")]
)
def test_only_the_subset_is_named(subset: tuple[str, ...], endpoints: str) -> None:
    exchange = Exchange(picker()[0])
    exchange.answers(headers()._replace(subset=subset))
    assert exchange.answers(body()) == [go_to(REQUEST_BODY, endpoints)]


@pytest.mark.parametrize("subset", [(), ("x:1",)])
def test_nobody_of_the_subset_is_503(subset: tuple[str, ...]) -> None:
    pick, ends = picker()
    exchange = Exchange(pick)
    exchange.answers(headers()._replace(subset=subset))
    assert exchange.answers(body()) == [refusal(503, "no replica is available")]
    assert exchange.is_refused
    exchange.close()
    assert (ends.num_refused, ends.ended_ones, pick.num_under_way) == (1, [], 0)


@pytest.mark.parametrize(
    ("waiting", "priority", "subset", "is_refused"),
    [
        ((11, 11, 11), 1, None, True),
        ((11, 11, 11), 0, None, False),
        ((11, 11, 11), -1, None, False),
        ((11, 10, 11), 1, None, False),
        ((11, 10, 11), 1, ("a:1", "c:3"), True),
        ((11, 11, 11), 1, (), False),  # nobody: 503, which is another thing
    ],
)
def test_who_can_wait_is_refused_where_all_are_busy(
    waiting: tuple[int, ...], priority: int, subset: tuple[str, ...] | None, is_refused: bool
) -> None:
    pick, _ = picker(max_waiting=10)
    for name, count in zip(NAMES, waiting, strict=True):
        pick.router.report(name, {"waiting": count})
    exchange = Exchange(pick)
    exchange.answers(headers()._replace(subset=subset))
    answers = exchange.answers(body(b'{"priority": %d}' % priority))
    assert (answers == [refusal(429, "all replicas are busy")]) == is_refused


@pytest.mark.parametrize("mode", [BUFFERED, FULL_DUPLEX_STREAMED])
def test_a_large_body_is_refused_before_it_is_whole(mode: int) -> None:
    exchange = Exchange(picker(max_body_bytes=100)[0])
    exchange.answers(headers(request_mode=mode))
    if mode == FULL_DUPLEX_STREAMED:
        assert exchange.answers(body(b"x" * 60, last=False)) == []
    answers = exchange.answers(body(b"x" * 101, last=False))
    assert answers == [refusal(413, "the body is larger than 100 bytes")]


def test_requests_of_one_name_are_told_apart() -> None:
    pick, ends = picker()
    exchanges = [Exchange(pick) for _ in range(3)]
    for exchange in exchanges:
        exchange.answers(headers())
        exchange.answers(body())
    assert len({decision.request_id for decision in ends.decisions}) == 3
    assert books(pick)[:, WAITING].tolist() == [1, 1, 1]
    for exchange in exchanges:
        exchange.close()
    assert len(ends.ended_ones) == 3


@pytest.mark.parametrize("seed", range(20))
def test_events_are_counted_however_they_are_cut(seed: int) -> None:
    generator = random.Random(seed)
    whole = (
        b": a comment with data: in it\n\n"
        + EVENT * 17
        + b'data: {"text": "data: data:"}\r\n\r\ndata: [DONE]\n\n'
    )
    tokens, count, at = AnswerTokens(STREAM["content-type"]), 0, 0
    while at < len(whole):
        size = generator.choice([1, 2, 5, 40, 1000])
        count += tokens.of(whole[at : at + size], at + size >= len(whole))
        at += size
    assert count == 18


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        (b'{"usage": {"prompt_tokens": 4, "completion_tokens": 19}}', 19),
        (b'{"usage": {"output_tokens" :7}}', 7),
        (b'{"text": "\\"completion_tokens\\": 9"}', 0),
        (b'{"completion_tokens": 99999999999}', 0),
        (b"", 0),
        (b"\xff" * 10_000 + b'"completion_tokens": 5}', 5),
    ],
)
def test_an_answer_says_at_its_end_how_many_tokens_it_has(answer: bytes, count: int) -> None:
    for step in (1, 3, 100_000):
        tokens = AnswerTokens("application/json")
        pieces = [answer[at : at + step] for at in range(0, len(answer), step)]
        counted = [tokens.of(piece, False) for piece in pieces]
        assert not any(counted)
        assert tokens.of(b"", True) == count


def test_broken_messages_are_refused_and_nothing_else_happens() -> None:
    generator = random.Random(1)
    values = b"".join(message(1, text(1, f"h{i}"), text(3, "v" * i)) for i in range(9))
    hint = message(6, *[message(1, text(3, name)) for name in NAMES])
    entry = message(1, text(1, "x-gateway-destination-endpoint-subset"), message(2, hint))
    metadata = message(8, message(1, text(1, "envoy.lb.subset_hint"), message(2, entry)))
    good = message(2, message(1, values), number(3, 1)) + metadata + message(11, number(1, 4))
    assert read_part(good).subset == NAMES
    refused = 0
    for _ in range(20_000):
        raw = bytearray(good)
        for _ in range(generator.randint(1, 4)):
            at = generator.randrange(len(raw))
            choice = generator.randrange(3)
            if choice == 0:
                raw[at] = generator.randrange(256)
            elif choice == 1:
                del raw[at : at + generator.randint(1, 9)]
            else:
                raw[at:at] = generator.randbytes(generator.randint(1, 9))
        try:
            part = read_part(bytes(raw))
            assert len(part.headers) <= 200
        except (MessageError, Refused):
            refused += 1
    assert refused > 5000


@pytest.mark.parametrize(
    "raw", [b"", b"\x0a", b"\xff" * 20, b"\x12\x05abc", b"\x0b", b"\x12\x80", number(8, 1)]
)
def test_what_is_no_message_is_said_to_be_none(raw: bytes) -> None:
    with pytest.raises(MessageError):
        read_part(raw)


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 1 << 32, (1 << 64) - 1])
def test_numbers_come_back(value: int) -> None:
    raw = number(3, value) + b"\x21" + b"8" * 8 + b"\x25" + b"4" * 4 + text(5, "t")
    assert next(fields(memoryview(raw))) == (3, 0, value)
    assert [field for field, _, _ in fields(memoryview(raw))] == [3, 4, 4, 5]


@pytest.mark.parametrize(
    "limits", [{"max_body_bytes": 0}, {"max_streams": -1}, {"max_waiting": -1}, {"num_fallbacks": -1}]
)
def test_limits_that_are_none_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(InputError, match=next(iter(limits))):
        Limits(**limits)  # type: ignore[arg-type]
