"""Messages of Envoy's external processing, `envoy.service.ext_proc.v3`: what a picker reads and writes.

A proxy sends the parts of an HTTP request and of its answer as `ProcessingRequest`, one at a time, and waits
for a `ProcessingResponse` to each. Numbers of fields are those of external_processor.proto and what it
imports.
"""

import json
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from servegym.agents.serving.artifact.protobuf import BYTES, fields, message, number, text

REQUEST_HEADERS, RESPONSE_HEADERS, REQUEST_BODY, RESPONSE_BODY, REQUEST_TRAILERS, RESPONSE_TRAILERS = range(
    2, 8
)
"""Parts of an HTTP request and of its answer: fields of ProcessingRequest."""

_ANSWERS = {part: part - 1 for part in range(REQUEST_HEADERS, RESPONSE_TRAILERS + 1)}
"""What answers a part: fields of ProcessingResponse."""

NONE, STREAMED, BUFFERED, BUFFERED_PARTIAL, FULL_DUPLEX_STREAMED = range(5)
"""How a proxy sends bodies (ProcessingMode.BodySendMode)."""

ENDPOINT, SERVED = "x-gateway-destination-endpoint", "x-gateway-destination-endpoint-served"
ENDPOINT_NAMESPACE = "envoy.lb"
SUBSET, SUBSET_NAMESPACE = "x-gateway-destination-endpoint-subset", "envoy.lb.subset_hint"

MAX_HEADERS = 200
MAX_SUBSET = 10_000
STREAMED_CHUNK_BYTES = 60_000
"""Of a streamed body in one message: Envoy advises 64 KiB at most."""


class MessageError(ValueError):
    """Bytes that are not a message. Says why, never what they are."""


class Refused(Exception):
    """A request that is not taken, with what its sender is told."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Part(NamedTuple):
    """One part of an HTTP request or of its answer.

    headers: by lower-case name, of header parts. subset: the endpoints that may be chosen, None: all.
    served: the endpoint that the answer comes from, empty where the proxy does not say. request_body_mode,
    response_body_mode: how the proxy sends bodies; said with the first part, None where it is not.
    """

    kind: int
    headers: dict[str, str]
    body: bytes = b""
    is_last: bool = False
    subset: tuple[str, ...] | None = None
    served: str = ""
    request_body_mode: int | None = None
    response_body_mode: int | None = None


def read_part(data: bytes) -> Part:
    """A ProcessingRequest. MessageError where it is none, Refused (431) with over MAX_HEADERS headers."""
    try:
        return _read_part(memoryview(data))
    except ValueError as error:
        raise MessageError(str(error)) from None


def go_on(part: int) -> bytes:
    """The answer to a part that is to stay as it is."""
    return _GO_ON[part]


@lru_cache(maxsize=4096)
def go_to(part: int, endpoints: str) -> bytes:
    """The answer to a part of a request (its headers or its body) that says where the request is to go.

    endpoints: "ip:port,ip:port", best first. They stand in a header and in dynamic metadata, as the protocol
    asks.
    """
    header = message(2, message(1, message(1, text(1, ENDPOINT), text(3, endpoints)), number(3, 2)))
    metadata = message(
        1, text(1, ENDPOINT_NAMESPACE), message(2, message(5, _entry(ENDPOINT, text(3, endpoints))))
    )
    common = message(1, header, number(5, 1))  # clear_route_cache: routes may match on the header
    return message(_ANSWERS[part], common) + message(8, metadata)


def same_body(part: int, body: bytes, is_last: bool) -> list[bytes]:
    """The answers that hand a body on that the proxy streams through the picker (FULL_DUPLEX_STREAMED)."""
    starts = range(0, max(1, len(body)), STREAMED_CHUNK_BYTES)
    answers = []
    for at in starts:
        ends = is_last and at == starts[-1]
        streamed = text(1, body[at : at + STREAMED_CHUNK_BYTES]) + number(2, int(ends))
        answers.append(message(_ANSWERS[part], message(1, message(3, message(3, streamed)))))
    return answers


@lru_cache(maxsize=64)
def refusal(status: int, reason: str) -> bytes:
    """The answer that ends a request here, in the form of OpenAI's errors."""
    error = {"error": {"message": reason, "type": "servegym_endpoint_picker", "code": status}}
    headers = [("content-type", "application/json")]
    if status in (429, 503):
        headers.append(("retry-after", "1"))
    mutation = b"".join(
        message(1, message(1, text(1, name), text(3, value)), number(3, 2)) for name, value in headers
    )
    return message(7, message(1, number(1, status)), message(2, mutation), text(3, json.dumps(error)))


_GO_ON = {
    part: message(answer) if part in (REQUEST_TRAILERS, RESPONSE_TRAILERS) else message(answer, message(1))
    for part, answer in _ANSWERS.items()
}


def _entry(key: str, value: bytes) -> bytes:
    """An entry of the map of a Struct."""
    return message(1, text(1, key), message(2, value))


def _read_part(data: memoryview) -> Part:
    kind, content, subset, served = 0, data[:0], None, ""
    modes: dict[int, int] | None = None
    for field, value in _bytes_fields(data):
        if REQUEST_HEADERS <= field <= RESPONSE_TRAILERS:
            kind, content = field, value
        elif field == 8:
            subset, served = _read_metadata(value)
        elif field == 11:  # protocol_config, where a mode that is 0 is left out
            modes = dict(_number_fields(value))
    if kind in (REQUEST_HEADERS, RESPONSE_HEADERS):
        headers, ends = _read_headers(content), dict(_number_fields(content))
        part = Part(kind, headers, b"", bool(ends.get(3)), subset, served)
    elif kind in (REQUEST_BODY, RESPONSE_BODY):
        bodies, ends = dict(_bytes_fields(content)), dict(_number_fields(content))
        part = Part(kind, {}, bytes(bodies.get(1, b"")), bool(ends.get(2) or ends.get(3)), subset, served)
    elif kind:
        part = Part(kind, {}, b"", True, subset, served)
    else:
        raise ValueError("no part of a request or of an answer")
    if modes is None:
        return part
    return part._replace(request_body_mode=modes.get(1, NONE), response_body_mode=modes.get(2, NONE))


def _bytes_fields(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields that are bytes, text or messages."""
    for field, wire, value in fields(content):
        if wire == BYTES:
            assert isinstance(value, memoryview)
            yield field, value


def _number_fields(content: memoryview) -> Iterator[tuple[int, int]]:
    """The fields that are varints."""
    for field, _, value in fields(content):
        if isinstance(value, int):
            yield field, value


def _text(value: memoryview) -> str:
    return str(value, "latin-1")


def _read_headers(content: memoryview) -> dict[str, str]:
    headers: dict[str, str] = {}
    count = 0
    for field, pairs in _bytes_fields(content):
        for _, pair in _bytes_fields(pairs) if field == 1 else ():
            count += 1
            if count > MAX_HEADERS:
                raise Refused(431, f"more than {MAX_HEADERS} headers")
            said = dict(_bytes_fields(pair))  # key, value, raw_value
            headers[_text(said.get(1, pair[:0])).lower()] = _text(said.get(3) or said.get(2) or pair[:0])
    return headers


def _read_metadata(content: memoryview) -> tuple[tuple[str, ...] | None, str]:
    """The subset and the endpoint that served, from a Metadata."""
    namespaces = _entries(content)
    subset = _entries(namespaces.get(SUBSET_NAMESPACE, content[:0])).get(SUBSET)
    served = _entries(namespaces.get(ENDPOINT_NAMESPACE, content[:0])).get(SERVED)
    return (
        None if subset is None else tuple(_strings(subset)),
        next(iter(_strings(served)), "") if served is not None else "",
    )


def _entries(content: memoryview) -> dict[str, memoryview]:
    """The map in field 1 of a message: of a Metadata, of a Struct."""
    maps = (dict(_bytes_fields(entry)) for field, entry in _bytes_fields(content) if field == 1)
    return {_text(entry.get(1, content[:0])): entry.get(2, content[:0]) for entry in maps}


def _strings(value: memoryview) -> list[str]:
    """The texts of a Value: of one that is text, split at commas, or of a list of such."""
    lists = [inner for field, inner in _bytes_fields(value) if field == 6]
    values = [each for inner in lists for field, each in _bytes_fields(inner) if field == 1] or [value]
    texts = (_text(inner) for each in values for field, inner in _bytes_fields(each) if field == 3)
    strings = (each.strip() for text in texts for each in text.split(","))
    return [each for each in strings if each][:MAX_SUBSET]
