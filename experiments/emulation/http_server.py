"""A lean HTTP/1.1 server on asyncio: what emulated workers need, bounded in every direction."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from servegym.experiments.emulation.http_messages import (
    LAST_CHUNK,
    MAX_HEAD_BYTES,
    BadMessage,
    Body,
    Head,
    chunk,
    read_head,
    write_response_head,
)

MAX_BODY_BYTES = 16 * 2**20
MAX_CONNECTIONS = 8192
MAX_UNSENT_BYTES = 4 * 2**20
"""Waiting for a client that does not read; it is cut off beyond."""
REQUEST_TIMEOUT_S = 60.0
"""For a request to come in whole once its first byte has come."""
SWEEP_S = 5.0


class Request(NamedTuple):
    """A request that has come in whole. path: without its query; headers by name in small letters."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body; ValueError where it is no JSON."""
        return json.loads(self.body)


class Reply:
    """The answer to one request; everything is ignored once the client has gone (`closed`)."""

    def __init__(self, connection: "Connection", keep_alive: bool, headers: dict[str, str]) -> None:
        self.closed = False
        self.on_close: Callable[[], None] | None = None  # called once, where the client goes before the end
        self._connection, self._keep_alive, self._headers = connection, keep_alive, headers

    def send(self, status: int, body: bytes, content_type: str = "application/json", **headers: str) -> None:
        """The whole answer."""
        if not self.closed:
            given = {"content-type": content_type, "content-length": str(len(body)), **headers}
            self._write(write_response_head(status, self._with_common(given)) + body)
            self._end()

    def send_json(self, status: int, answer: Any) -> None:
        """The whole answer, as JSON."""
        self.send(status, json.dumps(answer).encode())

    def head(self, content_type: str) -> bytes:
        """The head of an answer in chunks, to be written in front of the first."""
        given = {"content-type": content_type, "cache-control": "no-cache", "transfer-encoding": "chunked"}
        return write_response_head(200, self._with_common(given))

    def write(self, data: bytes) -> None:
        """A part of an answer in chunks, as it is to go over the wire."""
        if not self.closed:
            self._write(data)

    def finish(self, head: bytes, payload: bytes) -> None:
        """The last part of an answer in chunks: perhaps its head, and a payload."""
        if not self.closed:
            self._write(head + chunk(payload) + LAST_CHUNK)
            self._end()

    def _with_common(self, headers: dict[str, str]) -> dict[str, str]:
        return headers | self._headers | ({} if self._keep_alive else {"connection": "close"})

    def _write(self, data: bytes) -> None:
        transport = self._connection.transport
        transport.write(data)
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            transport.abort()

    def _end(self) -> None:
        self.closed = True
        self._connection.replied(self._keep_alive)


Handler = Callable[[Request, Reply], None]


class HttpServer:
    """Serves a listening socket. `handle` gets every request and answers through its `Reply`, now or later.

    headers: of every answer.
    """

    def __init__(self, handle: Handler, headers: dict[str, str]) -> None:
        self.handle, self.headers = handle, headers
        self.connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listens; port 0 is any free one. OSError where that cannot be."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), host, port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        self._sweep()

    def stop(self) -> None:
        """Closes the socket and every connection, whatever it is at."""
        if self._server is not None:
            self._server.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self.connections):
            connection.transport.abort()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for connection in list(self.connections):
            if now_s - connection.reading_since_s > REQUEST_TIMEOUT_S:
                connection.transport.abort()
        self._sweeper = loop.call_later(SWEEP_S, self._sweep)


class Connection(asyncio.Protocol):
    """One client; its requests are answered one after the other."""

    transport: asyncio.Transport

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._head: Head | None = None
        self._body: Body | None = None
        self._parts: list[bytes] = []
        self._reply: Reply | None = None
        self.reading_since_s = float("inf")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """One more, or one too many."""
        self.transport = cast(asyncio.Transport, transport)
        if len(self._server.connections) >= MAX_CONNECTIONS:
            self.transport.abort()
        else:
            self._server.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """The client has gone."""
        self._server.connections.discard(self)
        reply, self._reply = self._reply, None
        if reply is not None and not reply.closed:
            reply.closed = True
            if reply.on_close is not None:
                reply.on_close()

    def data_received(self, data: bytes) -> None:
        """Part of a request; what comes before the last one is answered has to wait."""
        self._buffer = self._buffer + data if self._buffer else data
        if self._reply is None:
            self._read()
        elif len(self._buffer) > MAX_HEAD_BYTES + MAX_BODY_BYTES:
            self.transport.abort()

    def replied(self, keep_alive: bool) -> None:
        """The request at hand has been answered."""
        self._reply = None
        if not keep_alive:
            self.transport.close()
        elif self._buffer:
            self._loop.call_soon(self._read)

    def _read(self) -> None:
        try:
            while self._reply is None and self._buffer and not self.transport.is_closing():
                if not self._read_request():
                    if self.reading_since_s == float("inf"):
                        self.reading_since_s = self._loop.time()
                    return
                self.reading_since_s = float("inf")
        except BadMessage as error:
            Reply(self, False, self._server.headers).send_json(error.status, _error(error))

    def _read_request(self) -> bool:
        """Reads on, and hands a request that is whole to the handler; False where more has to come."""
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end > MAX_HEAD_BYTES or (end < 0 and len(self._buffer) > MAX_HEAD_BYTES):
                raise BadMessage(431, f"head of more than {MAX_HEAD_BYTES} bytes")
            if end < 0:
                return False
            self._head = read_head(self._buffer[:end])
            if not self._head.first[2].startswith("HTTP/1."):
                raise BadMessage(505, "HTTP/1.1 only")
            self._buffer = self._buffer[end + 4 :]
            self._body, self._parts = Body(self._head.headers, MAX_BODY_BYTES), []
            if self._head.headers.get("expect", "").lower() == "100-continue" and not self._body.done:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self._body
        assert body is not None
        if not body.done:
            data, self._buffer = self._buffer, b""
            self._parts.append(body.feed(data))
            self._buffer = body.rest
        if not body.done:
            return False
        (method, target, version), headers = self._head
        keep_alive = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        self._head = self._body = None
        self._reply = Reply(self, keep_alive, self._server.headers)
        request = Request(method, target.partition("?")[0], headers, b"".join(self._parts))
        self._server.handle(request, self._reply)
        return True


def _error(error: BadMessage) -> dict[str, Any]:
    return {"error": {"message": str(error), "type": "BadRequestError", "param": None, "code": error.status}}
