"""What a router knows of an OpenAI request: from its body and headers, which anybody may have written.

Whatever comes, there is an answer: what cannot be read is as if it had not been said. The work is in
proportion to the body, which is read up to `MAX_BODY_BYTES`. Texts are counted and hashed, and kept nowhere.

Headers that start with `x-servegym-` are the word of a front that has counted or predicted; a gateway removes
those of its clients. A limit on the output (`max_tokens`) is no prediction: clients leave it where it was.
"""

import json
import uuid
import zlib
from array import array
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from itertools import islice
from typing import Any

from servegym.agents.serving.contracts import UNKNOWN
from servegym.agents.serving.routing.prefix_hashes import HASHED_BYTES, prefix_hashes
from servegym.agents.serving.routing.requests import RoutedRequest

MAX_BODY_BYTES = 4 << 20
"""Of a longer body only the length is used; so of one that is not JSON."""

BYTES_PER_TOKEN = 4
"""Of UTF-8, in a prompt that is text: English has about four characters a token."""

MESSAGE_TOKENS = 4
"""What a chat template adds to a message."""

MEDIA_TOKENS = 1_000
"""An image, or a recording: a megapixel is 765 tokens to GPT-4o, 1,300 to Qwen2-VL, 1,601 to Llama 3.2."""

MAX_PROMPT_TOKENS, MAX_OUTPUT_TOKENS, MAX_PRIORITY = 10_000_000.0, 1_000_000.0, 1_000_000.0
"""Larger numbers count as these; float32 has them exactly."""

PROMPT_TOKENS_HEADER = "x-servegym-prompt-tokens"
PREDICTED_HEADER = "x-servegym-predicted-output-tokens"
REQUEST_ID_HEADER, SESSION_HEADER = "x-request-id", "x-session-id"

_PROMPT_KEYS = ("tools", "system", "instructions", "messages", "prompt", "input")
"""What becomes the prompt, in the order of chat templates: a conversation that goes on begins as it began."""

_SESSION_KEYS = ("prompt_cache_key", "user", "safety_identifier")
_MEDIA_TYPES = frozenset(
    ("image_url", "input_image", "image", "input_audio", "audio_url", "video_url", "file", "input_file")
)
_NOT_IN_PROMPT = frozenset(("type", "id", "tool_call_id", "cache_control"))
_MAX_HEADERS, _MAX_PARTS, _MAX_ID_CHARACTERS = 200, 100_000, 128


def parse_openai(body: bytes, headers: Mapping[str, str]) -> RoutedRequest:
    """Of a request to /v1/completions, /v1/chat/completions or /v1/responses, or what comes in its place."""
    parsed: Any = None
    if len(body) <= MAX_BODY_BYTES:
        with suppress(ValueError, RecursionError):
            parsed = json.loads(body)
    if not isinstance(parsed, dict):
        return _request({}, len(body), (), headers)
    return from_mapping(parsed, headers)


def from_mapping(body: Mapping[str, Any], headers: Mapping[str, str]) -> RoutedRequest:
    """The same of a body that somebody has parsed."""
    num_bytes, prompt = _read_prompt([body[key] for key in _PROMPT_KEYS if key in body])
    return _request(body, num_bytes, prefix_hashes(prompt), headers)


def _request(
    body: Mapping[str, Any], num_bytes: int, hashes: tuple[int, ...], headers: Mapping[str, str]
) -> RoutedRequest:
    said = {str(name).lower(): value for name, value in islice(headers.items(), _MAX_HEADERS)}
    counted = _number(said.get(PROMPT_TOKENS_HEADER), MAX_PROMPT_TOKENS)
    estimated = float(-(-num_bytes // BYTES_PER_TOKEN))
    request_id = said.get(REQUEST_ID_HEADER)
    if not _is_id(request_id):
        request_id = uuid.uuid4().hex
    session = next(
        (
            name
            for name in (said.get(SESSION_HEADER), *(body.get(key) for key in _SESSION_KEYS))
            if isinstance(name, str) and name
        ),
        None,
    )
    return RoutedRequest(
        request_id=str(request_id),
        prompt_tokens=max(1.0, counted or min(estimated, MAX_PROMPT_TOKENS)),
        predicted_output_tokens=_number(said.get(PREDICTED_HEADER), MAX_OUTPUT_TOKENS),
        priority=_priority(body.get("priority")),
        session=UNKNOWN if session is None else session_number(session),
        prefix_hashes=hashes,
    )


def session_number(name: str) -> float:
    """A number below 2^24 for the name of a session or user: float32 has it exactly."""
    return float(int.from_bytes(blake2b(_encoded(name), digest_size=3).digest(), "little"))


def _read_prompt(values: list[Any]) -> tuple[int, bytes]:
    """How many bytes of a prompt values of JSON are, and what of it is to be hashed.

    A token's number is as many bytes as a token's text is taken to have.
    """
    num_bytes, num_parts, pieces, gathered = 0, 0, [], 0
    # The next value is the last one; with each, whether it belongs to an image or a recording.
    stack = [(value, False) for value in reversed(values)]
    while stack and num_parts < _MAX_PARTS:
        value, is_media = stack.pop()
        num_parts += 1
        piece = b""
        if isinstance(value, str):
            piece = _encoded(value)
            if is_media:
                piece = zlib.crc32(piece).to_bytes(4, "little")
            else:
                num_bytes += len(piece)
            piece += b"\0"  # where one text ends and the next begins
        elif isinstance(value, list):
            tokens = _token_bytes(value)
            if tokens is None:
                stack += [(each, is_media) for each in reversed(value[:_MAX_PARTS])]
            else:
                piece = tokens
                num_bytes += len(tokens)
        elif isinstance(value, Mapping):
            if not is_media and _is_media(value):
                is_media = True
                num_bytes += MEDIA_TOKENS * BYTES_PER_TOKEN
            elif "role" in value:
                num_bytes += MESSAGE_TOKENS * BYTES_PER_TOKEN
            items = [(each, is_media) for name, each in value.items() if name not in _NOT_IN_PROMPT]
            stack += reversed(items)
        if piece and gathered < HASHED_BYTES:
            pieces.append(piece)
            gathered += len(piece)
    return num_bytes, b"".join(pieces)


def _token_bytes(values: list[Any]) -> bytes | None:
    """Four bytes for each token's number; None for a list of anything else."""
    if not values or type(values[0]) is not int:
        return None
    try:
        return array("I", values).tobytes()
    except (TypeError, OverflowError):
        return None


def _is_media(part: Mapping[str, Any]) -> bool:
    kind = part.get("type")
    return isinstance(kind, str) and kind in _MEDIA_TYPES


def _encoded(text: str) -> bytes:
    """UTF-8; JSON may hold halves of characters, which UTF-8 may not."""
    return text.encode("utf-8", "surrogatepass")


def _number(text: Any, largest: float) -> float:
    """What a header says, 0 where it is no number above 0."""
    if not isinstance(text, str) or len(text) > 32:
        return 0.0
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return min(number, largest) if number > 0 else 0.0


def _priority(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return 0.0
    return float(max(-MAX_PRIORITY, min(MAX_PRIORITY, value)))


def _is_id(text: Any) -> bool:
    return (
        isinstance(text, str)
        and 0 < len(text) <= _MAX_ID_CHARACTERS
        and text.isascii()
        and text.isprintable()
    )
