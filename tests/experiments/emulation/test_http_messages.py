"""Bodies of HTTP messages, however they are cut into pieces; messages that are none."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegym.experiments.emulation.http_messages import (
    LAST_CHUNK,
    BadMessage,
    Body,
    chunk,
    read_head,
)
from tests.conftest import examples


def fed(body: Body, message: bytes, cuts: list[int]) -> bytes:
    """What a body gives when a message comes in pieces."""
    places = sorted({0, len(message), *(cut % (len(message) + 1) for cut in cuts)})
    return b"".join(body.feed(message[a:b]) for a, b in pairwise(places))


@examples(300)
@given(
    st.lists(st.binary(min_size=1, max_size=20), max_size=5), st.binary(max_size=9), st.lists(st.integers(0))
)
def test_chunks_come_out_as_they_went_in(payloads: list[bytes], rest: bytes, cuts: list[int]) -> None:
    body = Body({"transfer-encoding": "chunked"}, 1000)
    message = b"".join(map(chunk, payloads)) + LAST_CHUNK + rest
    assert fed(body, message, cuts) == b"".join(payloads)
    assert body.done and body.rest == rest


@examples(300)
@given(st.binary(max_size=40), st.binary(max_size=9), st.lists(st.integers(0)))
def test_a_body_is_as_long_as_it_says(payload: bytes, rest: bytes, cuts: list[int]) -> None:
    body = Body({"content-length": str(len(payload))}, 1000)
    if body.done:
        assert payload == b""
        return
    assert fed(body, payload + rest, cuts) == payload
    assert body.done and body.rest == rest


def test_trailers_and_extensions_of_chunks_are_passed_over() -> None:
    body = Body({"transfer-encoding": "chunked"}, 1000)
    assert body.feed(b"3;name=value\r\nabc\r\n0\r\ntrailer: x\r\n\r\nrest") == b"abc"
    assert body.done and body.rest == b"rest"


def test_a_body_of_an_answer_may_last_as_long_as_the_connection() -> None:
    assert Body({}, 10).done
    body = Body({}, 10, until_close=True)
    assert body.feed(b"ab") == b"ab"
    assert not body.done


@pytest.mark.parametrize(
    ("headers", "message", "status"),
    [
        ({"content-length": "11"}, b"", 413),
        ({"content-length": "-1"}, b"", 400),
        ({"content-length": "²"}, b"", 400),
        ({"transfer-encoding": "chunked"}, b"b\r\n", 413),
        ({"transfer-encoding": "chunked"}, b"6\r\nabcdef\r\n6\r\n", 413),
        ({"transfer-encoding": "chunked"}, b"-1\r\n", 400),
        ({"transfer-encoding": "chunked"}, b"\r\n", 400),
        ({"transfer-encoding": "chunked"}, b"1" * 2000, 400),
    ],
)
def test_bodies_that_are_refused(headers: dict[str, str], message: bytes, status: int) -> None:
    with pytest.raises(BadMessage) as refused:
        Body(headers, 10).feed(message)
    assert refused.value.status == status


def test_heads() -> None:
    head = read_head(b"GET /a HTTP/1.1\r\nHost: here\r\nX-Name:  two words ")
    assert head.first == ("GET", "/a", "HTTP/1.1")
    assert head.headers == {"host": "here", "x-name": "two words"}
    assert read_head(b"HTTP/1.1 200").first == ("HTTP/1.1", "200", "")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"", 400),
        (b"GET", 400),
        (b"GET / HTTP/1.1\r\nno colon", 400),
        (b"GET / HTTP/1.1\r\n name: value", 400),
        (b"GET / HTTP/1.1" + b"\r\na: b" * 101, 431),
    ],
)
def test_heads_that_are_refused(head: bytes, status: int) -> None:
    with pytest.raises(BadMessage) as refused:
        read_head(head)
    assert refused.value.status == status
