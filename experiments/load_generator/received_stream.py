"""What comes back for one request: when, and whether it is all of it, once, and its own."""

import json
import math
import re
import time
from collections.abc import Callable, Mapping

from servegym.experiments.emulation.worker import REPLICA_HEADER

_TOKEN = re.compile(rb" ([A-Za-z0-9._-]{1,64})#(\d+)")
_USAGE = re.compile(rb'"completion_tokens"\s*:\s*(\d+)')

MAX_ERROR_BYTES = 4096
"""That are kept of an answer which is no stream of tokens."""

NO_STATUS = 0
"""Where no answer has begun."""


def request_id(run_id: str, number: int) -> str:
    """Of a request of a run, by which it is known to those who answer it."""
    return f"{run_id}-{number}"


class ReceivedStream:
    """Listens to the answer to a request, as server-sent events. Times are `time.monotonic`.

    Tokens of emulated workers say whose they are and where they belong (`answers.py`); of others the usage
    at the end says how many they were. on_end: called when nothing comes any more.
    """

    def __init__(self, run_id: str, number: int, on_end: Callable[[], None]) -> None:
        self._run_id, self._own_id = run_id, request_id(run_id, number)
        self._on_end = on_end
        self._rest = b""
        self._done = False
        self._usage_tokens = 0
        self.answered_id: str | None = None  # whom the tokens are for, as they say
        self.status = NO_STATUS
        self.replica = -1
        self.num_tokens = 0
        self.num_repeated = 0  # tokens that had come before
        self.is_wrong = False  # a token came that is another request's, or before its turn
        self.first_token_s = self.last_token_s = math.nan
        self.longest_gap_s = 0.0
        self.error: str | None = None

    def head(self, status: int, headers: Mapping[str, str]) -> None:
        """The answer begins."""
        self.status = status
        replica = headers.get(REPLICA_HEADER, "")
        self.replica = int(replica) if replica.isdecimal() else -1

    def data(self, payload: bytes) -> None:
        """Part of it."""
        lines = self._rest + payload
        if self.status != 200:
            self._rest = lines[:MAX_ERROR_BYTES]
            return
        end = lines.rfind(b"\n") + 1
        lines, self._rest = lines[:end], lines[end:]
        if b"data: {" in lines:
            self._events(lines)
        if b"data: [DONE]" in lines:
            self._done = True

    def ended(self) -> None:
        """The answer is complete."""
        if self.status != 200:
            self.error = f"status {self.status}: {_message(self._rest)}"
        elif not self._done:
            self.error = "the stream ended before its end"
        self._on_end()

    def failed(self, reason: str) -> None:
        """It will not be."""
        self.error = reason
        self._on_end()

    def is_whole(self, output_tokens: int) -> bool:
        """Whether every token has come, once and in order."""
        right = self.error is None and self._done and not self.is_wrong and self.num_repeated == 0
        return right and self.num_tokens == output_tokens

    def _events(self, lines: bytes) -> None:
        marks = [(of.decode(), int(number)) for of, number in _TOKEN.findall(lines)]
        marks = [mark for mark in marks if self._is_of_a_worker(mark[0])]
        usage = _USAGE.search(lines)
        for of, number in marks:
            self._token(of, number)
        if usage is not None and self.answered_id is None:
            self.num_tokens = int(usage[1])
        if marks or usage is None:
            now_s = time.monotonic()
            if math.isnan(self.first_token_s):
                self.first_token_s = now_s
            else:
                self.longest_gap_s = max(self.longest_gap_s, now_s - self.last_token_s)
            self.last_token_s = now_s

    def _is_of_a_worker(self, of: str) -> bool:
        """Whether it is no word of a language model, which knows nothing of requests."""
        return self.replica >= 0 or of.startswith(f"{self._run_id}-")

    def _token(self, of: str, number: int) -> None:
        if self.answered_id is None:
            self.answered_id = of
            of_another = of.startswith(f"{self._run_id}-") and of != self._own_id
            self.is_wrong = self.is_wrong or of_another  # a proxy may have changed the id
        if of != self.answered_id or number > self.num_tokens + 1:
            self.is_wrong = True
        elif number <= self.num_tokens:
            self.num_repeated += 1
        else:
            self.num_tokens = number


def _message(body: bytes) -> str:
    """What an error says, in one line."""
    try:
        return str(json.loads(body)["error"]["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return " ".join(body.decode("utf-8", "replace").split())[:200]
