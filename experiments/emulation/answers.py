"""Answers to requests while their tokens come: as a stream of server-sent events, or whole at the end.

The text of token k of request R is " R#k", so that a client can see that nothing is missing, there twice, or
another's.
"""

import json
import time
from typing import Any, Protocol

from servegym.experiments.emulation.http_messages import chunk
from servegym.experiments.emulation.http_server import Reply

EVENTS = "text/event-stream; charset=utf-8"


def text_of_tokens(request_id: str, first: int, last: int) -> str:
    """The text of these tokens, numbered from 1."""
    return "".join(f" {request_id}#{number}" for number in range(first, last + 1))


def _compact(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class Meter(Protocol):
    """Who counts tokens."""

    def first_token(self, prompt_tokens: int, ttft_s: float) -> None:
        """A request has got its first token."""

    def tokens(self, count: int) -> None:
        """Tokens were sampled."""

    def finished(self, latency_s: float) -> None:
        """A request has got its last token."""


class Answer:
    """What all answers are: the request they are to, and what is counted.

    model: its name in the answer. arrival_s: the engine's time.
    """

    def __init__(
        self,
        reply: Reply,
        meter: Meter,
        *,
        model: str,
        request_id: str,
        chat: bool,
        prompt_tokens: int,
        output_tokens: int,
        arrival_s: float,
    ) -> None:
        self._reply, self._meter = reply, meter
        self._request_id, self._chat = request_id, chat
        self._prompt_tokens, self._output_tokens = prompt_tokens, output_tokens
        self._arrival_s = arrival_s
        self._common = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{request_id}",
            "created": int(time.time()),
            "model": model,
        }

    def begin(self) -> None:
        """The request has been accepted."""

    def token(self, number: int, time_s: float) -> None:
        """Token `number` was sampled at `time_s`."""
        self._meter.tokens(1)
        if number == 1:
            self._meter.first_token(self._prompt_tokens, time_s - self._arrival_s)
        last = number == self._output_tokens
        if last:
            self._meter.finished(time_s - self._arrival_s)
        self._answer(number, last)

    def _answer(self, number: int, last: bool) -> None:
        raise NotImplementedError

    def _usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._output_tokens,
            "total_tokens": self._prompt_tokens + self._output_tokens,
        }


class WholeAnswer(Answer):
    """One JSON object when the last token has come."""

    def _answer(self, number: int, last: bool) -> None:
        if not last:
            return
        text = text_of_tokens(self._request_id, 1, number)
        choice: dict[str, Any] = {
            "index": 0,
            "logprobs": None,
            "finish_reason": "length",
            "stop_reason": None,
        }
        if self._chat:
            kind, choice["message"] = "chat.completion", {"role": "assistant", "content": text}
        else:
            kind, choice["text"] = "text_completion", text
        self._reply.send_json(
            200, {**self._common, "object": kind, "choices": [choice], "usage": self._usage()}
        )


class StreamedAnswer(Answer):
    """Server-sent events: the first token at once, then every `interval` of them, and the last.

    include_usage: a last event says how many tokens there were. hold_head: the head of the answer comes with
    the first token, not at once.
    """

    def __init__(
        self,
        reply: Reply,
        meter: Meter,
        *,
        interval: int,
        include_usage: bool,
        hold_head: bool,
        **answer: Any,
    ) -> None:
        super().__init__(reply, meter, **answer)
        self._interval, self._include_usage = interval, include_usage
        self._sent = 0
        self._head, self._hold_head = reply.head(EVENTS), hold_head
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        self._start = b"data: " + _compact({**self._common, "object": kind})[:-1]
        before, after = ('"delta":{"content":"', '"}') if self._chat else ('"text":"', '"')
        self._before = f',"choices":[{{"index":0,{before}'.encode()
        self._after = f'{after},"logprobs":null,"finish_reason":'.encode()

    def begin(self) -> None:
        """The request has been accepted."""
        if not self._hold_head:
            self._reply.write(self._head)
            self._head = b""

    def _answer(self, number: int, last: bool) -> None:
        if not last and number > 1 and number - self._sent < self._interval:
            return
        text = text_of_tokens(self._request_id, self._sent + 1, number).encode()
        before = self._before
        if self._sent == 0 and self._chat:
            before = before.replace(b'{"content"', b'{"role":"assistant","content"')
        self._sent = number
        event = b"".join(
            (self._start, before, text, self._after, b'"length"}]}\n\n' if last else b"null}]}\n\n")
        )
        head, self._head = self._head, b""
        if not last:
            self._reply.write(head + chunk(event))
            return
        if self._include_usage:
            event += self._start + b',"choices":[],"usage":' + _compact(self._usage()) + b"}\n\n"
        self._reply.finish(head, event + b"data: [DONE]\n\n")
