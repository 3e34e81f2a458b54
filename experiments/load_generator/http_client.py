"""A lean HTTP/1.1 client on asyncio, for many long answers at once."""

import asyncio
from collections.abc import Mapping
from typing import Protocol, cast
from urllib.parse import urlsplit

from servegym.costmodels.errors import InputError
from servegym.experiments.emulation.http_messages import MAX_HEAD_BYTES, BadMessage, Body, read_head

MAX_ANSWER_BYTES = 2**40
"""Of a body: answers may be of any length, and are not kept."""


class Listener(Protocol):
    """Whoever wants the answer to a request. After `ended` or `failed` nothing comes any more."""

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """The answer begins."""

    def data(self, payload: bytes) -> None:
        """Part of its body."""

    def ended(self) -> None:
        """It is complete."""

    def failed(self, reason: str) -> None:
        """It will not be."""


class HttpClient:
    """Connections to one origin, kept for later requests. InputError where `url` is none of http."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme != "http" or not parts.hostname or port == -1 or parts.query or parts.fragment:
            raise InputError(f"target = {url}: must be an address such as http://127.0.0.1:8000")
        self.host, self.port = parts.hostname, port or 80
        self._path = parts.path.rstrip("/")
        self._authority = parts.netloc.rpartition("@")[2]
        self._idle: list[ClientConnection] = []
        self._all: set[ClientConnection] = set()

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, listener: Listener
    ) -> "ClientConnection | None":
        """Sends a request; its listener hears the rest. None where nobody is reached: it has been told."""
        if self._idle:
            connection = self._idle.pop()
        else:
            loop = asyncio.get_running_loop()
            try:
                _, connection = await loop.create_connection(
                    lambda: ClientConnection(self), self.host, self.port
                )
            except OSError as error:
                listener.failed(f"cannot connect ({error.strerror or error})")
                return None
        lines = [f"{method} {self._path}{path} HTTP/1.1", f"host: {self._authority}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines.append(f"content-length: {len(body)}")
        connection.begin(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body, listener)
        return connection

    def close(self) -> None:
        """Closes all connections; answers under way fail."""
        for connection in list(self._all):
            connection.abort()


class ClientConnection(asyncio.Protocol):
    """One connection, with one request on it at a time."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._listener: Listener | None = None
        self._buffer = b""
        self._body: Body | None = None
        self._keep_alive = False

    def begin(self, message: bytes, listener: Listener) -> None:
        """Sends a request."""
        self._listener, self._body, self._buffer = listener, None, b""
        assert self._transport is not None
        self._transport.write(message)

    def abort(self) -> None:
        """Leaves, whatever is still to come."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is there."""
        self._transport = cast(asyncio.Transport, transport)
        self._client._all.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone."""
        self._client._all.discard(self)
        if self in self._client._idle:
            self._client._idle.remove(self)
        listener, self._listener = self._listener, None
        if listener is None:
            return
        if self._body is not None and self._body.until_close and error is None:
            listener.ended()
        else:
            listener.failed("connection closed" if error is None else f"connection lost ({error})")

    def data_received(self, data: bytes) -> None:
        """Part of an answer."""
        try:
            if self._body is None:
                self._buffer += data
                self._read_head()
            else:
                self._read_body(data)
        except BadMessage as error:
            listener, self._listener = self._listener, None
            if listener is not None:
                listener.failed(f"no HTTP answer ({error})")
            self.abort()

    def _read_head(self) -> None:
        while self._body is None and self._buffer:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > MAX_HEAD_BYTES:
                    raise BadMessage(431, "head is too long")
                return
            (_, status, _), headers = read_head(self._buffer[:end])
            rest, self._buffer = self._buffer[end + 4 :], b""
            if not status.isdigit():
                raise BadMessage(400, "status must be a number")
            if status.startswith("1"):  # there is another head to come
                self._buffer = rest
                continue
            self._keep_alive = headers.get("connection", "").lower() != "close"
            self._body = Body(headers, MAX_ANSWER_BYTES, until_close=True)
            if self._listener is not None:
                self._listener.head(int(status), headers)
            self._read_body(rest)

    def _read_body(self, data: bytes) -> None:
        body, listener = self._body, self._listener
        assert body is not None
        payload = body.feed(data)
        if payload and listener is not None:
            listener.data(payload)
        if body.done:
            self._listener = None
            if self._keep_alive and not body.rest:
                self._client._idle.append(self)
            else:
                self.abort()
            if listener is not None:
                listener.ended()
