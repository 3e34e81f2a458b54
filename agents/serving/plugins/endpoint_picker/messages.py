"""Messages of Envoy's external processing, `envoy.service.ext_proc.v3`: what a picker reads and writes.

A proxy sends the parts of an HTTP request and of its answer as `ProcessingRequest`, one at a time, and waits
for a `ProcessingResponse` to each. Numbers of fields are those of external_processor.proto and what it
imports.
"""

import json
from functools import lru_cache
from typing import NamedTuple

from servegym.agents.serving.plugins.endpoint_picker.wire import (
    NOT_BYTES,
    WireError,
    fields,
    message,
    number,
    text,
)

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
    """A ProcessingRequest. WireError where it is none, Refused (431) with more than MAX_HEADERS headers."""
    kind, begin, end, metadata, modes = 0, 0, 0, (0, 0), None
    for field, value, stop in fields(data, 0, len(data)):
        if REQUEST_HEADERS <= field <= RESPONSE_TRAILERS and stop != NOT_BYTES:
            kind, begin, end = field, value, stop
        elif field == 8 and stop != NOT_BYTES:  # metadata_context
            metadata = value, stop
        elif field == 11 and stop != NOT_BYTES:  # protocol_config: a number that is 0 is left out
            modes = {number: mode for number, mode, _ in fields(data, value, stop)}
    headers: dict[str, str] = {}
    body, is_last = b"", False
    if kind in (REQUEST_HEADERS, RESPONSE_HEADERS):
        for field, value, stop in fields(data, begin, end):
            if field == 1 and stop != NOT_BYTES:
                headers = _read_headers(data, value, stop)
            elif field == 3:
                is_last = bool(value)
    elif kind in (REQUEST_BODY, RESPONSE_BODY):
        for field, value, stop in fields(data, begin, end):
            if field == 1 and stop != NOT_BYTES:
                body = data[value:stop]
            elif field in (2, 3):
                is_last = is_last or bool(value)
    elif kind in (REQUEST_TRAILERS, RESPONSE_TRAILERS):
        is_last = True
    else:
        raise WireError("no part of a request or answer")
    subset, served = _read_metadata(data, *metadata)
    if modes is None:
        return Part(kind, headers, body, is_last, subset, served)
    return Part(kind, headers, body, is_last, subset, served, modes.get(1, NONE), modes.get(2, NONE))


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


def _read_headers(data: bytes, begin: int, end: int) -> dict[str, str]:
    headers: dict[str, str] = {}
    count = 0
    for field, start, stop in fields(data, begin, end):
        if field != 1 or stop == NOT_BYTES:
            continue
        count += 1
        if count > MAX_HEADERS:
            raise Refused(431, f"more than {MAX_HEADERS} headers")
        name = value = ""
        for inner, at, upto in fields(data, start, stop):
            if upto == NOT_BYTES:
                continue
            if inner == 1:
                name = data[at:upto].decode("latin-1").lower()
            elif inner in (2, 3) and upto > at:  # `value`, or `raw_value` in its place
                value = data[at:upto].decode("latin-1")
        headers[name] = value
    return headers


def _read_metadata(data: bytes, begin: int, end: int) -> tuple[tuple[str, ...] | None, str]:
    """The subset and the endpoint that served, from a Metadata."""
    subset: tuple[str, ...] | None = None
    served = ""
    for name, at, stop in _entries(data, begin, end):
        if name == SUBSET_NAMESPACE:
            for key, value_at, value_stop in _entries(data, at, stop):
                if key == SUBSET:
                    subset = tuple(_strings(data, value_at, value_stop))
        elif name == ENDPOINT_NAMESPACE:
            for key, value_at, value_stop in _entries(data, at, stop):
                if key == SERVED:
                    served = next(iter(_strings(data, value_at, value_stop)), "")
    return subset, served


def _entries(data: bytes, begin: int, end: int) -> list[tuple[str, int, int]]:
    """The entries of a map in field 1 (of a Metadata, of a Struct): key, and where the value is."""
    entries = []
    for field, start, stop in fields(data, begin, end):
        if field != 1 or stop == NOT_BYTES:
            continue
        key, value = "", (0, 0)
        for inner, at, upto in fields(data, start, stop):
            if upto == NOT_BYTES:
                continue
            if inner == 1:
                key = data[at:upto].decode("latin-1")
            elif inner == 2:
                value = at, upto
        entries.append((key, *value))
    return entries


def _strings(data: bytes, begin: int, end: int) -> list[str]:
    """The texts of a Value: of one that is text, split at commas, or of a list of such."""
    strings: list[str] = []
    values = [
        (start, upto)
        for field, at, stop in fields(data, begin, end)
        if field == 6 and stop != NOT_BYTES
        for inner, start, upto in fields(data, at, stop)
        if inner == 1 and upto != NOT_BYTES
    ]
    for start, upto in values or [(begin, end)]:
        for field, at, stop in fields(data, start, upto):
            if field == 3 and stop != NOT_BYTES:
                strings += [
                    each.strip() for each in data[at:stop].decode("latin-1").split(",") if each.strip()
                ]
    return strings[:MAX_SUBSET]
