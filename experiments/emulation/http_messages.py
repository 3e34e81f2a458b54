"""HTTP/1.1 messages as bytes: heads, and bodies of the three kinds."""

from http import HTTPStatus
from typing import NamedTuple

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
MAX_LINE_BYTES = 1024
"""Of the line in front of a chunk, and of a trailer."""


class BadMessage(Exception):
    """What was received is no HTTP/1.1 message, or one beyond the limits; `status` is the answer due."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Head(NamedTuple):
    """The three words of the first line, and headers by name in small letters; of equal names the last."""

    first: tuple[str, str, str]
    headers: dict[str, str]


def read_head(data: bytes) -> Head:
    """A head without the empty line at its end."""
    first, *lines = data.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) == 2:
        words.append("")  # a status without a reason
    if len(words) != 3:
        raise BadMessage(400, "first line of three words expected")
    if len(lines) > MAX_HEADERS:
        raise BadMessage(431, f"at most {MAX_HEADERS} headers")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadMessage(400, "header without a name")
        headers[name.lower()] = value.strip()
    return Head((words[0], words[1], words[2]), headers)


def write_response_head(status: int, headers: dict[str, str]) -> bytes:
    """A head with the empty line at its end."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunk(payload: bytes) -> bytes:
    """A chunk of a body whose length is not known beforehand."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


LAST_CHUNK = b"0\r\n\r\n"


class Body:
    """A body as it comes in. `done` when all of it has come; `rest` is then what follows it.

    max_bytes: BadMessage (413) where it is longer. until_close: a body without a length lasts as long as its
    connection; else there is none.
    """

    def __init__(self, headers: dict[str, str], max_bytes: int, *, until_close: bool = False) -> None:
        self.done = False
        self.rest = b""
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._buffer = b""
        self._left = 0  # of the chunk at hand with the line break behind it, or of the body
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        self._in_trailers = False
        self.until_close = False
        if self._chunked:
            return
        length = headers.get("content-length")
        if length is None:
            self.until_close = until_close
            self.done = not until_close
            return
        if not (length.isascii() and length.isdigit()):
            raise BadMessage(400, "content-length must be a number")
        self._left = int(length)
        self._count(self._left)
        self.done = self._left == 0

    def feed(self, data: bytes) -> bytes:
        """What of the body is in these bytes of the message."""
        if self.done:
            self.rest += data
            return b""
        if self.until_close:
            self._count(len(data))
            return data
        if self._chunked:
            return self._feed_chunks(data)
        taken = data[: self._left]
        self._left -= len(taken)
        self.done = self._left == 0
        self.rest = data[len(taken) :]
        return taken

    def _feed_chunks(self, data: bytes) -> bytes:
        if self._buffer:
            data = self._buffer + data
        at, parts = 0, []
        while True:
            if self._left > 2:
                part = data[at : at + self._left - 2]
                parts.append(part)
                at += len(part)
                self._left -= len(part)
                if self._left > 2:
                    break
            if self._left > 0:  # the line break
                passed = min(self._left, len(data) - at)
                at += passed
                self._left -= passed
                if self._left > 0:
                    break
            end = data.find(b"\r\n", at)
            if end < 0:
                if len(data) - at > MAX_LINE_BYTES:
                    raise BadMessage(400, "line in front of a chunk is too long")
                break
            line = data[at:end]
            at = end + 2
            if self._in_trailers:
                if not line:
                    self.done, self.rest = True, data[at:]
                    at = len(data)
                    break
                continue
            size = self._chunk_size(line)
            self._in_trailers = size == 0
            self._left = size + 2 if size > 0 else 0
        self._buffer = data[at:]
        return b"".join(parts) if len(parts) != 1 else parts[0]

    def _chunk_size(self, line: bytes) -> int:
        digits = line.partition(b";")[0].strip()
        if not digits or digits.strip(b"0123456789abcdefABCDEF"):
            raise BadMessage(400, "size of a chunk must be a number")
        size = int(digits, 16)
        self._count(size)
        return size

    def _count(self, size: int) -> None:
        self._num_bytes += size
        if self._num_bytes > self._max_bytes:
            raise BadMessage(413, f"body of more than {self._max_bytes} bytes")
