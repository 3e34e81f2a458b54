"""Counts the tokens of an answer as it goes by."""

import re

_DATA, _DONE = b"data:", b"data: [DONE]"
_USAGE = re.compile(rb'"(?:completion_tokens|output_tokens)"\s*:\s*(\d{1,7})(?!\d)')
_KEPT_BYTES = 4096


class AnswerTokens:
    """Of one answer, in pieces as they come. Nothing of it is kept but the end of the last piece.

    A stream of events (`text/event-stream`) counts an event a token, as engines send them. Any other answer
    says at its end how many tokens it has (`usage.completion_tokens`).

    is_stream: whether tokens are counted as they come.
    """

    def __init__(self, content_type: str) -> None:
        self.is_stream = content_type.startswith("text/event-stream")
        self._kept = b""

    def of(self, piece: bytes, is_last: bool) -> int:
        """Tokens that are known of with this piece and were not before."""
        if not self.is_stream:
            self._kept = (self._kept + piece)[-_KEPT_BYTES:]
            said = _USAGE.findall(self._kept) if is_last else []
            return int(said[-1]) if said else 0
        *lines, rest = (self._kept + piece).split(b"\n")
        # The beginning of a line says what it is.
        self._kept = rest[: len(_DONE)]
        if is_last:
            lines.append(rest)
        return sum(line.startswith(_DATA) and not line.startswith(_DONE) for line in lines)
