"""What is read from requests, well-formed or not."""

import copy
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from servegym.agents.serving.contracts import UNKNOWN
from servegym.agents.serving.routing.prefix_hashes import BLOCK_TOKENS, MAX_BLOCKS
from servegym.agents.serving.routing.request_features import (
    MAX_BODY_BYTES,
    MAX_OUTPUT_TOKENS,
    MAX_PRIORITY,
    MAX_PROMPT_TOKENS,
    MEDIA_TOKENS,
    MESSAGE_TOKENS,
    from_mapping,
    parse_openai,
)
from servegym.agents.serving.routing.requests import RoutedRequest


def _parsed(body: Any, **headers: str) -> RoutedRequest:
    return parse_openai(
        json.dumps(body).encode(), {name.replace("_", "-"): value for name, value in headers.items()}
    )


def _chat(*texts: str) -> list[dict[str, str]]:
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": each} for i, each in enumerate(texts)]


def test_tokens_of_texts_messages_and_images() -> None:
    assert _parsed({"prompt": "x" * 401}).prompt_tokens == 101
    assert _parsed({"prompt": ["x" * 400, "y" * 200]}).prompt_tokens == 150
    assert _parsed({"prompt": "中" * 400}).prompt_tokens == 300  # three bytes each
    chat = {"messages": _chat("x" * 400, "y" * 40)}  # "user", "assistant": 13 bytes
    assert _parsed(chat).prompt_tokens == 100 + 10 + 2 * MESSAGE_TOKENS + 4
    parts = [
        {"type": "text", "text": "x" * 40},
        {"type": "image_url", "image_url": {"url": "data:" + "A" * 9999}},
    ]
    with_image = _parsed({"messages": [{"role": "user", "content": parts}]}).prompt_tokens
    assert with_image == 10 + 1 + MESSAGE_TOKENS + MEDIA_TOKENS
    assert _parsed({"input": "x" * 80}).prompt_tokens == 20
    assert _parsed({"model": "a-long-name" * 99, "max_tokens": 500}).prompt_tokens == 1


def test_token_numbers_are_counted_exactly() -> None:
    tokens = list(range(1000, 1333))
    assert _parsed({"prompt": tokens}).prompt_tokens == 333
    assert len(_parsed({"prompt": tokens}).prefix_hashes) == 333 // BLOCK_TOKENS
    assert _parsed({"prompt": [tokens, tokens[:10]]}).prompt_tokens == 343


def test_a_front_that_has_counted_is_believed_and_a_limit_is_no_prediction() -> None:
    body = {"prompt": "x" * 400, "max_tokens": 77, "max_completion_tokens": 78}
    assert _parsed(body).predicted_output_tokens == 0
    told = _parsed(body, x_servegym_prompt_tokens="123", X_Servegym_Predicted_Output_Tokens="45.5")
    assert (told.prompt_tokens, told.predicted_output_tokens) == (123, 45.5)
    for nonsense in ("", "-3", "nan", "0", "twelve", "1" * 33):
        told = _parsed(body, x_servegym_prompt_tokens=nonsense, x_servegym_predicted_output_tokens=nonsense)
        assert (told.prompt_tokens, told.predicted_output_tokens) == (100, 0)
    told = _parsed(body, x_servegym_prompt_tokens="1e999", x_servegym_predicted_output_tokens="inf")
    assert (told.prompt_tokens, told.predicted_output_tokens) == (MAX_PROMPT_TOKENS, MAX_OUTPUT_TOKENS)
    assert _parsed(body, x_servegym_prompt_tokens="1e-300").prompt_tokens == 1


def test_sessions_by_whatever_names_them() -> None:
    by_user = _parsed({"prompt": "a", "user": "u1"}).session
    assert by_user == _parsed({"prompt": "b", "user": "u1"}).session != _parsed({"user": "u2"}).session
    assert by_user == _parsed({"safety_identifier": "u1"}).session
    assert _parsed({"user": "u2", "prompt_cache_key": "u1"}).session == by_user
    assert _parsed({"user": "u2", "prompt_cache_key": "u3"}, x_session_id="u1").session == by_user
    assert by_user == np.float32(by_user) and 0 <= by_user < 2**24
    for nobody in ({}, {"user": ""}, {"user": 7}, {"user": ["u1"]}, {"user": None}):
        assert _parsed(nobody).session == UNKNOWN
    assert 0 <= parse_openai(b'{"user": "\\ud800"}', {}).session < 2**24


def test_request_ids_are_taken_or_made() -> None:
    assert _parsed({}, X_Request_Id="abc-1").request_id == "abc-1"
    assert _parsed({}, x_request_id="abc-1").request_id == "abc-1"
    for bad in ("", "x" * 129, "a\nb", "ü"):
        made = _parsed({}, x_request_id=bad).request_id
        assert len(made) == 32 and made != _parsed({}, x_request_id=bad).request_id


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        ("3", 3.0),
        ("-2.5", -2.5),
        ("1e999", MAX_PRIORITY),
        ("-Infinity", -MAX_PRIORITY),
        ("NaN", 0.0),
        ("9" * 400, MAX_PRIORITY),
        ("true", 0.0),
        ('"1"', 0.0),
        ("[1]", 0.0),
        ("null", 0.0),
        ('1, "priority": 2', 2.0),
    ],
)
def test_priorities(said: str, taken: float) -> None:
    assert parse_openai(f'{{"priority": {said}}}'.encode(), {}).priority == taken


def test_a_conversation_that_goes_on_begins_as_it_began() -> None:
    turns = ["tell me " * 100, "well " * 200, "and then " * 30]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    first = _parsed({"messages": _chat(*turns[:1]), "tools": tools}).prefix_hashes
    later = _parsed({"tools": tools, "messages": _chat(*turns)}).prefix_hashes
    assert len(first) >= 2 and later[: len(first)] == first and len(later) > len(first)
    other = _parsed({"tools": [], "messages": _chat(*turns)}).prefix_hashes
    assert not set(other) & set(later)


def test_who_said_it_and_where_texts_end_belong_to_the_prefix() -> None:
    text = "x" * 300
    said = _parsed({"messages": [{"role": "user", "content": text}]}).prefix_hashes
    assert said != _parsed({"messages": [{"role": "system", "content": text}]}).prefix_hashes
    assert (
        _parsed({"prompt": ["ab", "c" * 300]}).prefix_hashes
        != _parsed({"prompt": ["a", "bc" * 150]}).prefix_hashes
    )
    images = [
        _parsed(
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image_url", "image_url": {"url": f"data:{i}"}},
                            {"type": "text", "text": text},
                        ],
                    }
                ]
            }
        ).prefix_hashes
        for i in (1, 2)
    ]
    assert len(images[0]) == 1 and images[0] != images[1]


def test_parsed_bodies_are_read_alike() -> None:
    body = {"messages": _chat("hello " * 200), "user": "u", "priority": 2}
    assert from_mapping(body, {"x-request-id": "1"}) == _parsed(body, x_request_id="1")


def test_no_text_is_kept() -> None:
    secret = "my secret diagnosis"
    request = _parsed(
        {"messages": _chat(secret * 50), "user": secret, "priority": secret}, x_session_id=secret
    )
    assert secret not in repr(request) and "diagnosis" not in repr(request)


BROKEN = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf{}",
    b"[" * 100_000,
    b'{"prompt":' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"prompt":' * 100_000,
    b'{"prompt": ' + b"9" * 5000 + b"}",
    b'{"prompt": [1, -1]}',
    b'{"prompt": [1, 99999999999]}',
    b'{"prompt": [1, true, 1.5, null, "x"]}',
    b'{"messages": {"role": 1, "content": {"type": {"a": 1}}}}',
    b'{"messages": [{"type": []}, {"type": "image_url"}, 1e999, NaN]}',
    b'{"prompt": "' + b"x" * MAX_BODY_BYTES + b'"}',
    '{"prompt": "ü"}'.encode("utf-16"),
    b"\x1f\x8b\x08\x00compressed",
]


@pytest.mark.parametrize("body", BROKEN, ids=lambda body: repr(body[:24]))
def test_whatever_cannot_be_read_has_features_all_the_same(body: bytes) -> None:
    _check(parse_openai(body, {}))


def test_the_length_speaks_for_what_cannot_be_read() -> None:
    assert parse_openai(b"x" * 4000, {}).prompt_tokens == 1000
    assert parse_openai(b" " * (100 * MAX_BODY_BYTES), {}).prompt_tokens == MAX_PROMPT_TOKENS


def _check(request: RoutedRequest) -> None:
    numbers = np.array(request[1:5], np.float64)
    assert np.isfinite(numbers).all() and all(type(each) is float for each in request[1:5])
    assert 1 <= request.prompt_tokens <= MAX_PROMPT_TOKENS
    assert 0 <= request.predicted_output_tokens <= MAX_OUTPUT_TOKENS
    assert abs(request.priority) <= MAX_PRIORITY
    assert request.session == UNKNOWN or (0 <= request.session < 2**24 and request.session % 1 == 0)
    assert type(request.request_id) is str and 0 < len(request.request_id) <= 128
    assert len(request.prefix_hashes) <= MAX_BLOCKS
    assert all(type(each) is int and 0 <= each < 2**63 for each in request.prefix_hashes)


SEEDS: list[dict[str, Any]] = [
    {"model": "m", "messages": _chat("hello " * 90, "yes", "go on"), "stream": True, "user": "u1"},
    {"model": "m", "prompt": "once upon a time " * 60, "priority": 1, "prompt_cache_key": "k"},
    {"model": "m", "prompt": [1, 2, 3, 40000] * 60, "n": 2, "temperature": 0.5},
    {"model": "m", "prompt": [[1, 2], [3]], "safety_identifier": "s"},
    {
        "messages": [
            {"role": "system", "content": "be kind"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what is this"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBOR" * 40}},
                    {"type": "input_audio", "input_audio": {"data": "UklGR", "format": "wav"}},
                ],
            },
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"arguments": "{}"}}]},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    },
    {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}], "instructions": "b"},
]  # fmt: skip
ODD: list[bytes] = [
    *(b"null", b"true", b"-1", b"1e999", b"NaN", b"-Infinity", b"0.1", b"[]", b"{}", b'""', b"[[[[[]]]]]"),
    *(b"9" * 300, b"9" * 5000, b'"\\ud800"', b'"\\u0000\\uffff"', b'"' + "🤖é中".encode() + b'"', b"[1,2,3]"),
    *(b'{"role":{"role":[]}}', b'[1,"a",null]', b'{"type":"image_url"}', b'{"type":7}', b"[" * 1500),
    *(b'"' + b"a" * 3000 + b'"', b"[" + b"1," * 2000 + b"1]", b"\xff", b"\x00", b'{"a":1,"a":2}'),
]
HEADERS = (
    "x-request-id",
    "x-session-id",
    "x-servegym-prompt-tokens",
    "x-servegym-predicted-output-tokens",
    "host",
)


def _mutated(rng: np.random.Generator) -> bytes:
    """A request with one to three values replaced; in every other one bytes are changed or lost."""
    body = copy.deepcopy(SEEDS[rng.integers(len(SEEDS))])
    for i in range(rng.integers(1, 4)):
        _replace_a_value(rng, body, f"@{i}@")
    mutated = json.dumps(body, ensure_ascii=False).encode()
    for i in range(3):
        mutated = mutated.replace(b'"@%d@"' % i, ODD[rng.integers(len(ODD))])
    broken = bytearray(mutated)
    for _ in range(max(0, rng.integers(-3, 4))):
        at = int(rng.integers(len(broken) + 1))
        match rng.integers(4):
            case 0:
                broken[at : at + 1] = bytes([int(rng.integers(256))])
            case 1:
                del broken[at : at + int(rng.integers(20))]
            case 2:
                broken[at:at] = broken[at : at + int(rng.integers(300))]
            case _:
                del broken[max(at, 1) :]
    return bytes(broken)


def _replace_a_value(rng: np.random.Generator, body: Any, mark: str) -> None:
    """Goes down from the top, and puts a mark in place of what it meets somewhere."""
    while True:
        key = list(body)[rng.integers(len(body))] if isinstance(body, dict) else int(rng.integers(len(body)))
        if not (isinstance(body[key], dict | list) and body[key]) or rng.random() < 0.3:
            body[key] = mark
            return
        body = body[key]


def _fuzz(count: int, seed: int) -> float:
    """Parses mutated requests; which share of them were JSON objects after all."""
    rng = np.random.default_rng(seed)
    readable = 0
    for _ in range(count):
        body = _mutated(rng)
        headers = {}
        if rng.random() < 0.5:
            value = ODD[rng.integers(len(ODD))].decode("latin-1")
            headers = {HEADERS[rng.integers(len(HEADERS))]: value}
        _check(parse_openai(body, headers))
        try:
            parsed = json.loads(body)
        except (ValueError, RecursionError):
            continue
        readable += isinstance(parsed, dict)
        _check(from_mapping(parsed if isinstance(parsed, dict) else {}, headers))
    return readable / count


def test_mutated_requests_have_features() -> None:
    assert 0.3 < _fuzz(3_000, 0) < 0.7


@pytest.mark.slow
def test_100_000_mutated_requests_have_features() -> None:
    assert 0.3 < _fuzz(100_000, 1) < 0.7


HOSTILE: list[Callable[[int], bytes]] = [
    lambda size: b'{"prompt":"' + b"x" * size + b'"}',
    lambda size: b'{"prompt":[' + b"1," * (size // 2) + b"1]}",
    lambda size: b'{"prompt":[1,' + b'"",' * (size // 3) + b"1]}",
    lambda size: b'{"prompt":[' + b"[]," * (size // 3) + b"1]}",
    lambda size: b'{"messages":[' + b'{"role":1},' * (size // 11) + b"1]}",
    lambda size: (
        b'{"prompt":' + (b"[" * 200 + b"]" * 200 + b",") * 0 + b"[" * (size // 2) + b"]" * (size // 2) + b"}"
    ),
    lambda size: b'{"messages":[' + (b'{"a":' * 90 + b"1" + b"}" * 90 + b",") * (size // 541) + b"1]}",
    lambda size: b'{"tools":{' + b",".join(b'"%x":{}' % i for i in range(size // 8)) + b"}}",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_work_is_in_proportion_to_the_body(hostile: Callable[[int], bytes]) -> None:
    """Lines of Python that are run; what C does of it is one pass over the body."""

    def lines(size: int) -> int:
        count = 0

        def trace(frame: Any, event: str, _: Any) -> Any:
            nonlocal count
            count += event == "line"
            return trace

        body = hostile(size)
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            parse_openai(body, {})
        finally:
            sys.settrace(before)
        return count

    few, many = lines(4_000), lines(32_000)
    assert many <= 8.5 * few + 200
