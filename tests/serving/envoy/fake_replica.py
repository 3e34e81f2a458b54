"""A replica that answers as it is told in the request: one process, one asyncio protocol, no other package.

    python fake_replica.py PORT NAME

POST anything with {"id", "tokens", "first_s", "token_s", "stream", "priority"}: after `first_s` seconds an
answer of `tokens` events, `token_s` apart, each with the id and the replica's name; or, without `stream`, one
JSON object. {"refuse": NAME} answers 503 at that replica. GET /health, /load (what POST /say has set last)
and /stats.
"""

import asyncio
import json
import sys

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\n"


class Replica:
    """What it has seen, and what it says of itself."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.headers: dict[str, str] = {}
        self.broken_off = 0
        self.running = 0
        self.load: dict[str, float] | None = None


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, replica: Replica) -> None:
        self.replica, self.buffer = replica, b""
        self.asked: dict | None = None
        self.sent = 0

    def connection_made(self, transport) -> None:
        self.transport, self.loop = transport, asyncio.get_running_loop()

    def connection_lost(self, error) -> None:
        if self.asked is not None:
            self.replica.broken_off += 1
            self.replica.running -= 1
            self.asked = None

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while self.asked is None and (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            first, *lines = self.buffer[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            if headers.get("transfer-encoding") == "chunked":
                body, rest = unchunked(self.buffer[end + 4 :])
                if rest is None:
                    return
            else:
                size = int(headers.get("content-length", 0))
                if len(self.buffer) < end + 4 + size:
                    return
                body, rest = self.buffer[end + 4 : end + 4 + size], self.buffer[end + 4 + size :]
            self.buffer = rest
            method, path, _ = first.split(" ")
            self.answer(method, path, headers, body)

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        replica = self.replica
        if path == "/health":
            self.whole({})
        elif path == "/load":
            self.whole(replica.load or {"running": replica.running, "waiting": 0})
        elif path == "/stats":
            seen = "name", "begun", "ended", "broken_off", "headers"
            self.whole({each: getattr(replica, each) for each in seen})
        elif path == "/say":
            replica.load = json.loads(body)
            self.whole({})
        else:
            self.asked = json.loads(body)
            replica.headers = headers
            replica.running += 1
            self.asked["bytes"] = len(body)
            self.asked["request_id"] = headers.get("x-request-id")
            replica.begun.append(self.asked.get("id", ""))
            if self.asked.get("refuse") == replica.name:
                self.over(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
            elif self.asked.get("stream"):
                self.loop.call_later(self.asked.get("first_s", 0), self.begin)
            else:
                self.loop.call_later(self.asked.get("first_s", 0), self.all_at_once)

    def whole(self, said: object) -> None:
        body = json.dumps(said).encode()
        self.transport.write(HEAD % b"application/json" + b"content-length: %d\r\n\r\n" % len(body) + body)

    def all_at_once(self) -> None:
        if self.asked is None:
            return
        tokens = self.asked.get("tokens", 1)
        body = json.dumps(
            {**self.said(), "bytes": self.asked["bytes"], "usage": {"completion_tokens": tokens}}
        ).encode()
        self.over(HEAD % b"application/json" + b"content-length: %d\r\n\r\n" % len(body) + body)

    def said(self) -> dict:
        return {
            "id": self.asked.get("id"),
            "replica": self.replica.name,
            "request_id": self.asked["request_id"],
        }

    def begin(self) -> None:
        if self.asked is None:
            return
        head = HEAD % b"text/event-stream" + b"x-replica: %s\r\n" % self.replica.name.encode()
        self.transport.write(head + b"transfer-encoding: chunked\r\n\r\n")
        self.sent = 0
        self.token()

    def token(self) -> None:
        if self.asked is None:
            return
        self.sent += 1
        event = b"data: " + json.dumps({**self.said(), "n": self.sent}).encode() + b"\n\n"
        chunk = b"%x\r\n%s\r\n" % (len(event), event)
        if self.sent == self.asked.get("tokens", 1):
            done = b"data: [DONE]\n\n"
            self.over(chunk + b"%x\r\n%s\r\n0\r\n\r\n" % (len(done), done))
        else:
            self.transport.write(chunk)
            self.loop.call_later(self.asked.get("token_s", 0), self.token)

    def over(self, data: bytes) -> None:
        self.transport.write(data)
        self.replica.ended.append(self.asked.get("id", ""))
        self.replica.running -= 1
        self.asked = None
        if self.buffer:
            self.data_received(b"")


def unchunked(data: bytes) -> tuple[bytes, bytes | None]:
    """A body in chunks and what follows it; None where it is not there yet."""
    pieces, at = [], 0
    while (end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:end], 16)
        if len(data) < end + 2 + size + 2:
            break
        if size == 0:
            return b"".join(pieces), data[end + 4 :]
        pieces.append(data[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return b"", None


async def main(port: int, name: str) -> None:
    replica = Replica(name)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(replica), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
