"""One HTTP request and its answer, as their parts come by at the picker."""

from servegym.agents.serving.plugins.endpoint_picker.answer_tokens import AnswerTokens
from servegym.agents.serving.plugins.endpoint_picker.messages import (
    BUFFERED,
    BUFFERED_PARTIAL,
    FULL_DUPLEX_STREAMED,
    REQUEST_BODY,
    REQUEST_HEADERS,
    REQUEST_TRAILERS,
    RESPONSE_BODY,
    RESPONSE_HEADERS,
    STREAMED,
    Part,
    Refused,
    go_on,
    go_to,
    refusal,
    same_body,
)
from servegym.agents.serving.plugins.endpoint_picker.picker import Picker
from servegym.agents.serving.routing.requests import RoutedRequest

SHOWN_WHOLE = (STREAMED, BUFFERED, FULL_DUPLEX_STREAMED)
"""How a proxy sends the bodies of answers where we see their tokens, and that they come to their end."""


class Exchange:
    """Answers the parts of one request; whatever comes of it, `close` is called once at its end.

    The request goes where the picker says when its body is known: with the body where the proxy buffers it,
    with the headers, which wait for the body, where it is streamed through (FULL_DUPLEX_STREAMED, also where
    the proxy does not say how it sends bodies: the endpoint picker protocol asks for this one), and at once
    where it is not shown before it is sent on.

    is_decided: it has been said where the request goes, or that it goes nowhere (is_refused).
    """

    def __init__(self, picker: Picker) -> None:
        self._picker = picker
        self._headers: dict[str, str] = {}
        self._subset: tuple[str, ...] | None = None
        self._body = bytearray()
        self._request_mode = self._response_mode = FULL_DUPLEX_STREAMED
        self._request: RoutedRequest | None = None
        self._endpoint = ""
        self._tokens: AnswerTokens | None = None
        self._succeeded = self._is_shown = self._is_whole = False  # the answer
        self.is_decided, self.is_refused = False, False

    def answers(self, part: Part) -> list[bytes]:
        """What the proxy is told; nothing yet where a body is still to come. A refusal is the last answer."""
        try:
            if part.kind == REQUEST_HEADERS:
                return self._request_headers(part)
            if part.kind == REQUEST_BODY:
                return self._request_body(part)
            if part.kind == REQUEST_TRAILERS and not self.is_decided:
                return [*self._decided(is_last=False), go_on(part.kind)]
            return self._answer_part(part)
        except Refused as refused:
            return [self.refuse(refused)]

    def refuse(self, refused: Refused) -> bytes:
        """The answer that ends the request here."""
        self.is_decided = self.is_refused = True
        return refusal(refused.status, refused.reason)

    def close(self) -> None:
        """The proxy has no more to say, or was not heard to the end."""
        if self._request is not None:
            request, self._request = self._request, None
            is_cut_off = self._is_shown and not self._is_whole
            self._picker.ended(request, self._succeeded and not is_cut_off)

    def _request_headers(self, part: Part) -> list[bytes]:
        self._headers, self._subset = part.headers, part.subset
        if part.request_body_mode is not None and part.response_body_mode is not None:
            self._request_mode, self._response_mode = part.request_body_mode, part.response_body_mode
            self._is_shown = self._response_mode in SHOWN_WHOLE
        if part.is_last or self._request_mode not in (BUFFERED, BUFFERED_PARTIAL, FULL_DUPLEX_STREAMED):
            return [go_to(REQUEST_HEADERS, self._pick(b""))]
        if self._request_mode == FULL_DUPLEX_STREAMED:
            return []
        return [go_on(REQUEST_HEADERS)]

    def _request_body(self, part: Part) -> list[bytes]:
        if self.is_decided:
            return [go_on(REQUEST_BODY)]
        if self._request_mode != FULL_DUPLEX_STREAMED:
            return [go_to(REQUEST_BODY, self._pick(part.body))]
        self._picker.check_size(len(self._body) + len(part.body))
        self._body += part.body
        return self._decided(is_last=True) if part.is_last else []

    def _decided(self, is_last: bool) -> list[bytes]:
        """Headers and body of a request that was streamed here, now that all of it is."""
        body = bytes(self._body)
        self._body = bytearray()
        return [go_to(REQUEST_HEADERS, self._pick(body)), *same_body(REQUEST_BODY, body, is_last)]

    def _pick(self, body: bytes) -> str:
        self._request, endpoints = self._picker.pick(body, self._headers, self._subset)
        self.is_decided = True
        self._endpoint, self._headers = endpoints[0], {}
        return ",".join(endpoints)

    def _answer_part(self, part: Part) -> list[bytes]:
        answer = [go_on(part.kind)]
        if part.kind == RESPONSE_BODY and self._response_mode == FULL_DUPLEX_STREAMED:
            answer = same_body(RESPONSE_BODY, part.body, part.is_last)
        if self._request is None or part.kind == REQUEST_TRAILERS:
            return answer
        if part.kind == RESPONSE_HEADERS:
            self._answer_begins(self._request, part)
        elif self._tokens is not None:
            self._is_shown = True  # also by a proxy that has not said so
            self._count(self._request, self._tokens, part)
        if part.is_last:
            self._is_whole = True
            self.close()
        return answer

    def _answer_begins(self, request: RoutedRequest, part: Part) -> None:
        if part.served and part.served != self._endpoint:
            self._endpoint = part.served
            self._picker.served(request, part.served)
        self._succeeded = part.headers.get(":status", "").startswith("2")
        if not self._succeeded:
            return
        if self._response_mode in SHOWN_WHOLE:
            self._tokens = AnswerTokens(part.headers.get("content-type", ""))
        else:
            self._picker.router.began(request.request_id)

    def _count(self, request: RoutedRequest, tokens: AnswerTokens, part: Part) -> None:
        if count := tokens.of(part.body, part.is_last):
            just_now = tokens.is_stream and self._response_mode != BUFFERED
            self._picker.router.tokens(request.request_id, count, just_now=just_now)
