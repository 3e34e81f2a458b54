"""Which keys differ between two configurations: what a command goes on with must be what it has begun."""

from collections.abc import Collection
from typing import Any


def differing_keys(before: dict[str, Any], now: dict[str, Any], apart_from: Collection[str]) -> list[str]:
    """Dotted names of the keys that have another value now, or that only one of the two has.

    apart_from: keys at the top that may differ, with all below them.

    >>> differing_keys({"a": {"b": 1}, "out": "x"}, {"a": {"b": 2}, "out": "y"}, ["out"])
    ['a.b']
    """
    old, new = flat(before), flat(now)
    keys = [key for key in {**old, **new} if key.partition(".")[0] not in apart_from]
    return [key for key in keys if key not in old or key not in new or old[key] != new[key]]


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by their dotted names."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        values |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return values
