"""Bodies of OpenAI's completions and chat completions, as far as a worker without a language needs them."""

import re
from typing import Any, NamedTuple

from servegym.experiments.emulation.prompts import Prompt

DEFAULT_MAX_TOKENS = 16
"""Of OpenAI and vLLM for completions; here for chats as well."""

MAX_TOKENS = 2**24
"""Of a prompt and of an output: more than any engine holds."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class BadRequest(Exception):
    """A body that cannot be served, in words for the client."""


class Asked(NamedTuple):
    """What a client asks for. request_id: None where it gave none that fits into a text."""

    prompt: Prompt
    max_tokens: int
    stream: bool
    include_usage: bool
    priority: int
    request_id: str | None


def read_request(body: Any, headers: dict[str, str], *, chat: bool) -> Asked:
    """Of a body that was JSON, and the headers that came with it. BadRequest says what is wrong."""
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    if body.get("n") not in (None, 1):
        raise BadRequest(f"n = {body['n']!r}: must be 1")
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise BadRequest("stream_options must be an object")
    request_id = next(
        (
            each
            for each in (body.get("request_id"), headers.get("x-request-id"))
            if isinstance(each, str) and _REQUEST_ID.fullmatch(each)
        ),
        None,
    )
    return Asked(
        prompt=_text_of_chat(body.get("messages")) if chat else _prompt(body.get("prompt")),
        max_tokens=_max_tokens(body, chat),
        stream=bool(body.get("stream")),
        include_usage=bool(options.get("include_usage")),
        priority=_integer("priority", body.get("priority") or 0, -(2**31), 2**31 - 1),
        request_id=request_id,
    )


def _max_tokens(body: dict[str, Any], chat: bool) -> int:
    for key in ("max_completion_tokens", "max_tokens") if chat else ("max_tokens",):
        if body.get(key) is not None:
            return _integer(key, body[key], 1, MAX_TOKENS)
    return DEFAULT_MAX_TOKENS


def _integer(key: str, value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise BadRequest(f"{key} must be an integer from {least} to {most}")
    return value


def _prompt(prompt: object) -> Prompt:
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]  # a batch of one
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, list) and all(type(each) is int and 0 <= each < 2**63 for each in prompt):
        return prompt
    raise BadRequest("prompt must be a text or a list of token ids, and one only")


def _text_of_chat(messages: object) -> str:
    """The texts of all messages, one a line."""
    if not isinstance(messages, list) or not messages:
        raise BadRequest("messages must be a list of at least one message")
    return "\n".join(_text_of(message) for message in messages)


def _text_of(message: object) -> str:
    if not isinstance(message, dict):
        raise BadRequest("each message must be an object")
    content = message.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        return "".join(part["text"] for part in content if isinstance(part.get("text"), str))
    raise BadRequest("the content of a message must be a text or a list of parts")


def error_body(status: int, message: str) -> dict[str, Any]:
    """What vLLM answers to what it cannot serve."""
    kind = "BadRequestError" if status == 400 else "NotFoundError" if status == 404 else "ServerError"
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}
