"""What a router knows of a call of a Ray Serve deployment: the OpenAI request among its arguments."""

from collections.abc import Iterable, Mapping
from typing import Any

from servegym.agents.serving.routing.request_features import from_mapping, parse_openai
from servegym.agents.serving.routing.requests import RoutedRequest

_BODY_KEYS = ("messages", "prompt", "input")
_READ_KEYS = (*_BODY_KEYS, "tools", "system", "instructions", "user", "prompt_cache_key", "priority")


def routed_request(args: Iterable[Any], kwargs: Mapping[str, Any]) -> RoutedRequest:
    """Of the first argument that is the body of an OpenAI request: its bytes, a mapping, or an object with
    `messages`, `prompt` or `input`, as ray.serve.llm has; else of keyword arguments of these names.

    Headers are those of an argument that has some (a Starlette request), or a mapping in the argument
    `headers`. Serve's own proxy hands on a request before its body has come: then only the headers are known.
    """
    values = [*args, *kwargs.values()]
    headers = kwargs.get("headers")
    if not isinstance(headers, Mapping):
        headers = next((found for each in values if (found := _headers(each)) is not None), {})
    for value in values:
        if isinstance(value, bytes):
            return parse_openai(value, headers)
        body = _body(value)
        if body is not None:
            return from_mapping(body, headers)
    return from_mapping(kwargs, headers)


def _body(value: Any) -> Mapping[str, Any] | None:
    if isinstance(value, Mapping):
        return value if any(key in value for key in _BODY_KEYS) else None
    if any(getattr(value, key, None) is not None for key in _BODY_KEYS):
        found = {key: _plain(getattr(value, key, None)) for key in _READ_KEYS}
        return {key: each for key, each in found.items() if each is not None}
    return None


def _plain(value: Any) -> Any:
    """Values of JSON for Pydantic models, in lists too."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.model_dump(exclude_none=True) if hasattr(value, "model_dump") else value


def _headers(value: Any) -> Mapping[str, str] | None:
    scope = getattr(value, "scope", None) or getattr(value, "_asgi_scope", None)
    if not isinstance(scope, Mapping):
        return None
    return {name.decode("latin-1"): said.decode("latin-1") for name, said in scope.get("headers", ())}
