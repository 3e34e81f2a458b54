"""What a client notes of a stream, and what it finds wrong with it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegym.experiments.emulation.answers import text_of_tokens
from servegym.experiments.load_generator.received_stream import ReceivedStream
from tests.conftest import examples

DONE = b"data: [DONE]\n\n"


def event(text: str) -> bytes:
    return (
        b"data: " + json.dumps({"id": "cmpl-x", "created": 5, "choices": [{"text": text}]}).encode() + b"\n\n"
    )


def tokens(*numbers: int, of: str = "r-1") -> bytes:
    return b"".join(event(text_of_tokens(of, number, number)) for number in numbers)


def received(*parts: bytes, status: int = 200, ended: bool = True, replica: str = "3") -> ReceivedStream:
    """After an answer in these parts."""
    calls: list[None] = []
    stream = ReceivedStream("r", 1, lambda: calls.append(None))
    stream.head(status, {"x-servegym-replica": replica} if replica else {})
    for part in parts:
        stream.data(part)
    assert not calls
    (stream.ended if ended else lambda: stream.failed("connection lost"))()
    assert len(calls) == 1
    return stream


@examples(200)
@given(st.lists(st.integers(0), max_size=8))
def test_a_whole_answer_in_whatever_pieces(cuts: list[int]) -> None:
    message = tokens(1, 2) + event(text_of_tokens("r-1", 3, 6)) + DONE
    places = sorted({0, len(message), *(cut % len(message) for cut in cuts)})
    stream = received(*(message[a:b] for a, b in zip(places, [*places[1:], None], strict=True)))
    assert stream.is_whole(6) and not stream.is_whole(7)
    assert (stream.replica, stream.num_tokens, stream.answered_id) == (3, 6, "r-1")
    assert stream.first_token_s <= stream.last_token_s
    assert 0 <= stream.longest_gap_s <= stream.last_token_s - stream.first_token_s


@pytest.mark.parametrize(
    ("message", "num_tokens", "num_repeated", "is_wrong"),
    [
        (tokens(1, 2), 2, 0, False),  # no end
        (tokens(1) + DONE, 1, 0, False),  # one too few
        (tokens(1, 2, 3) + DONE, 3, 0, False),  # one too many
        (tokens(1, 2, 2) + DONE, 2, 1, False),
        (tokens(1) + tokens(1, 2) + DONE, 2, 1, False),
        (tokens(2) + DONE, 0, 0, True),
        (tokens(1) + tokens(2, of="r-2") + DONE, 1, 0, True),
        (tokens(1, 2, of="r-2") + DONE, 2, 0, True),
        (DONE, 0, 0, False),
        (b"", 0, 0, False),
    ],
)
def test_answers_that_are_not_whole(
    message: bytes, num_tokens: int, num_repeated: int, is_wrong: bool
) -> None:
    stream = received(message)
    assert not stream.is_whole(2)
    assert (stream.num_tokens, stream.num_repeated, stream.is_wrong) == (num_tokens, num_repeated, is_wrong)


def test_an_answer_that_breaks_off() -> None:
    stream = received(tokens(1, 2) + DONE, ended=False)
    assert not stream.is_whole(2)
    assert stream.error == "connection lost"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "too\\n long"}}', "status 400: too\n long"),
        (b"<html>\nno\n\nupstream</html>", "status 400: <html> no upstream</html>"),
        (b"", "status 400: "),
    ],
)
def test_refusals(body: bytes, said: str) -> None:
    stream = received(body, status=400)
    assert not stream.is_whole(0)
    assert stream.error == said


def test_a_proxy_may_take_headers_away() -> None:
    stream = received(tokens(1, 2) + DONE, replica="")
    assert stream.is_whole(2) and stream.replica == -1


def test_a_proxy_may_change_the_id() -> None:
    assert received(tokens(1, 2, of="7f3a-1b") + DONE).is_whole(2)


def test_tokens_of_others_than_emulated_workers_are_counted_by_their_usage() -> None:
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5}}\n\n'
    stream = received(event("Once"), event(" upon a C#4"), usage, DONE, replica="")
    assert stream.is_whole(5)
    assert stream.answered_id is None and stream.first_token_s <= stream.last_token_s
