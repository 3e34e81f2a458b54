"""Many clients at once, each of which asks, reads a streamed answer to its end and asks again."""

import asyncio
import json
import re
import time
from dataclasses import dataclass, field

_EVENT = re.compile(rb'data: (\{"id": .*?\})\n\n')
_STATUS = re.compile(rb"HTTP/1\.1 (\d+)")
_REPLICA = re.compile(rb"x-replica: (\S+)")
_SIZE = re.compile(rb"content-length: (\d+)")


@dataclass
class Outcomes:
    """What became of requests, by id.

    answered: whole answers, and of which replica. cut: answers that had begun, and where. failed: anything
    else, and what came. doubled: what came that nobody had asked for.
    """

    answered: dict[str, str] = field(default_factory=dict)
    cut: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    doubled: int = 0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def num_over(self) -> int:
        return len(self.answered) + len(self.cut) + len(self.failed)


class Stream(asyncio.Protocol):
    """One connection with one request at a time; `over` is called when it is answered or broken off."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.waiting: asyncio.Future[bool] | None = None

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.waiting is not None and not self.waiting.done() and is_whole(self.buffer):
            self.waiting.set_result(True)

    def connection_lost(self, error) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(False)

    async def ask(self, body: bytes) -> bool:
        """Whether the answer came to its end; all that came of it is in the buffer."""
        self.waiting = asyncio.get_running_loop().create_future()
        head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        self.transport.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        return await self.waiting


def is_whole(raw: bytearray) -> bool:
    if b"transfer-encoding: chunked" in raw:
        return raw.endswith(b"\r\n0\r\n\r\n")
    head, _, body = raw.partition(b"\r\n\r\n")
    size = _SIZE.search(head)
    return size is not None and len(body) >= int(size[1])


async def client(port: int, bodies, outcomes: Outcomes) -> None:
    """Asks for the next of `bodies` until there are no more."""
    loop = asyncio.get_running_loop()
    stream = None
    for body in bodies:
        while stream is None or stream.transport.is_closing():
            try:
                _, stream = await loop.create_connection(Stream, "127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
        outcomes.doubled += bool(stream.buffer)
        stream.buffer.clear()
        began_s = time.monotonic()
        is_whole = await stream.ask(json.dumps(body).encode())
        note(body, bytes(stream.buffer), is_whole, outcomes)
        outcomes.latencies_s.append(time.monotonic() - began_s)
        stream.buffer.clear()
        if not is_whole:
            stream.transport.abort()
    if stream is not None:
        stream.transport.close()


def note(body: dict, raw: bytes, is_whole: bool, outcomes: Outcomes) -> None:
    """Puts an answer where it belongs. A whole one is of one replica, in order, and of this request."""
    name, status, replica = body["id"], _STATUS.match(raw), _REPLICA.search(raw)
    if status is None or status[1] != b"200" or replica is None:
        outcomes.failed[name] = raw[:200].decode("latin-1")
        return
    events = [json.loads(each) for each in _EVENT.findall(raw)]
    expected = [(name, replica[1].decode(), n) for n in range(1, body["tokens"] + 1)]
    came = [(event["id"], event["replica"], event["n"]) for event in events]
    if not is_whole and came == expected[: len(came)]:
        outcomes.cut[name] = replica[1].decode()
    elif is_whole and came == expected and raw.count(b"HTTP/1.1") == 1 and raw.count(b"[DONE]") == 1:
        outcomes.answered[name] = replica[1].decode()
    else:
        outcomes.failed[name] = f"another answer: {raw[:500]!r}"
