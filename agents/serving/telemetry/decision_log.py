"""A log of decisions and what became of them: lines of JSON that `servegym` reads back.

A file begins with a header; a line `{"replicas": [...]}` says whose the rows of the decisions after it are.
A decision has the numbers that the policy saw, bit by bit: rows are base64 of float32, prefixes of
uint64, both little-endian. No text of a request is in it (`requests.py`).

Writing is another thread's. A disk that is full or gone costs lines, which are counted, and no request. A
line is written whole, or cut off again.
"""

import atexit
import json
import logging
import math
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from servegym.agents.serving.artifact.schema import REPLICA_FEATURES, REQUEST_FEATURES
from servegym.agents.serving.routing.prefix_hashes import BLOCK_TOKENS
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import Decision
from servegym.agents.serving.telemetry.rotating_file import RotatingFile
from servegym.costmodels.errors import InputError

VERSION = 1

FLUSH_S = 0.2
"""How long a line waits at most until it is written."""

MAX_WAITING_BYTES = 16 << 20
"""Lines that wait; while there are so many of them new ones are dropped."""

WRITE_BYTES = 1 << 18
"""Written at once, or one line more: requests wait for this thread while it puts them together."""

RETRY_S = 5.0
"""From an error of the disk until it is tried again."""

_LOG = logging.getLogger("servegym.decisions")
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


class DecisionLog:
    """An observer that writes to the file `path`, after what is there.

    setting: what the policy was told once, by name, for the header. rows_every: every so many decisions the
    rows are logged too; 0: never. max_bytes, kept: see RotatingFile, which also says what happens where
    another process writes to the file. clock: seconds since 1970.

    InputError where the file cannot be written to begin with.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        setting: Mapping[str, float] | None = None,
        rows_every: int = 1,
        max_bytes: int = 256 << 20,
        kept: int = 8,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.dropped = 0
        self._rows_every, self._clock = rows_every, clock
        self._header = {
            "servegym_decisions": VERSION,
            "request_features": REQUEST_FEATURES,
            "replica_features": REPLICA_FEATURES,
            "prefix_block_tokens": BLOCK_TOKENS,
            "setting": dict(setting or {}),
        }
        self._decisions = 0
        self._names: Sequence[str] = ()  # that the file has last been told of
        self._waiting: list[tuple[Sequence[str], bytes]] = []  # with each line, the names of its rows
        self._waiting_bytes = 0
        self._lock, self._closing = threading.Lock(), threading.Event()
        try:
            self._file = RotatingFile(Path(path), max_bytes, kept)
        except OSError as error:
            raise InputError(f"decision_log = {path}: cannot be written ({error.strerror})") from error
        self._thread = threading.Thread(target=self._run, name="servegym decisions", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @property
    def path(self) -> Path:
        """The file that is written to."""
        return self._file.path

    def decided(
        self, decision: Decision, request: RoutedRequest, features: np.ndarray, replicas: np.ndarray
    ) -> None:
        """Logs a decision."""
        line: dict[str, Any] = {
            "at_s": self._clock(),
            "id": decision.request_id,
            "request": features.tolist(),
            "replica": decision.replica,
            "policy": decision.policy,
            "took_s": round(decision.decision_s, 7),
        }
        age_s = _mean_age_s(decision)
        if age_s is not None:
            line["age_s"] = age_s
        if request.session >= 0:
            line["session"] = request.session
        if decision.fallback:
            line["fallback"] = decision.fallback
        if decision.shadow:
            line["shadow"] = decision.shadow
        text = _encode(line).encode()
        if request.prefix_hashes:
            text = _with_base64(text, b"prefixes", np.array(request.prefix_hashes, "<u8"))
        if self._rows_every and self._decisions % self._rows_every == 0:
            text = _with_base64(text, b"rows", replicas.astype("<f4", copy=False))
        self._decisions += 1
        self._put(text, decision.names)

    def refused(self, request: RoutedRequest) -> None:
        """Logs a request that nobody could take."""
        self._put(_encode({"at_s": self._clock(), "refused": request.request_id}).encode())

    def ended(self, request_id: str, output_tokens: int, ttft_s: float, latency_s: float, ok: bool) -> None:
        """Logs what became of a request; null is what is not known of it."""
        line = {
            "ended_s": self._clock(),
            "id": request_id,
            "output_tokens": output_tokens if output_tokens >= 0 else None,
            "ttft_s": ttft_s if math.isfinite(ttft_s) else None,
            "latency_s": latency_s,
            "ok": ok,
        }
        self._put(_encode(line).encode())

    def close(self) -> None:
        """Writes what waits, and ends."""
        atexit.unregister(self.close)
        self._closing.set()
        self._thread.join()

    def _put(self, line: bytes, names: Sequence[str] = ()) -> None:
        with self._lock:
            if self._waiting_bytes + len(line) > MAX_WAITING_BYTES:
                self.dropped += 1
                return
            self._waiting.append((names, line))
            self._waiting_bytes += len(line)

    def _run(self) -> None:
        try_again_s = -math.inf
        while True:
            closing = self._closing.wait(FLUSH_S)
            if closing or time.monotonic() >= try_again_s:
                with self._lock:
                    lines, self._waiting, self._waiting_bytes = self._waiting, [], 0
                if not self._write(lines):
                    try_again_s = time.monotonic() + RETRY_S
            if closing:
                self._file.close()
                return

    def _write(self, lines: list[tuple[Sequence[str], bytes]]) -> bool:
        """Whether the disk took them; those that it did not take are lost."""
        written = 0
        try:
            while written < len(lines):
                written += self._write_some(lines, written)
        except OSError as error:
            if self.dropped == 0:
                _LOG.warning("%s cannot be written (%s); said once", self.path, error.strerror)
            self.dropped += len(lines) - written
            return False
        return True

    def _write_some(self, lines: list[tuple[Sequence[str], bytes]], first: int) -> int:
        """Writes as many from the first on as there is room for, one at least, and says how many."""
        texts, size, names = [], self._file.begin(), self._names
        room = min(WRITE_BYTES, self._file.max_bytes - size)
        if size == 0:
            texts.append(_encode(self._header).encode())
            names = ()
        number = first
        while number < len(lines) and (number == first or room > 0):
            names_of_line, line = lines[number]
            if names_of_line and names_of_line is not names:
                names = names_of_line
                texts.append(_encode({"replicas": list(names)}).encode())
            texts.append(line)
            room -= len(line)
            number += 1
        self._names = ()  # until it is known that it has been told
        self._file.write(b"\n".join(texts) + b"\n")
        self._names = names
        return number - first


def _mean_age_s(decision: Decision) -> float | None:
    """Of the reports that were used; None without one."""
    used = decision.ages_s[np.isfinite(decision.ages_s)]
    return round(float(used.mean()), 6) if len(used) else None


def _with_base64(line: bytes, key: bytes, array: np.ndarray) -> bytes:
    """A line that ends in } with one more key: nothing in base64 has to be escaped."""
    return b'%s,"%s":"%s"}' % (line[:-1], key, b64encode(array.tobytes()))
