"""Ranges of the parameters of policies, written where the parameters are declared: `d: PositiveInt = 2`."""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ParamSpec, TypeVar, get_args, get_type_hints

from servegym.costmodels.errors import InputError

P = ParamSpec("P")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Allowed:
    """Which values a parameter may have: a test, and how a sentence goes on after "must be"."""

    test: Callable[[Any], bool]
    text: str


def at_least(low: float) -> Allowed:
    """Finite values from `low` on."""
    return Allowed(lambda value: low <= value < math.inf, f"at least {low:g} and finite")


def above(low: float) -> Allowed:
    """Finite values greater than `low`."""
    return Allowed(lambda value: low < value < math.inf, f"above {low:g} and finite")


def below(low: float, high: float) -> Allowed:
    """From `low`, allowed, to `high`, not allowed."""
    return Allowed(lambda value: low <= value < high, f"at least {low:g} and below {high:g}")


def within(low: float, high: float) -> Allowed:
    """From `low` to `high`, both allowed."""
    return Allowed(lambda value: low <= value <= high, f"from {low:g} to {high:g}")


def one_of(*values: object) -> Allowed:
    """One of a few."""
    return Allowed(lambda value: value in values, f"one of {', '.join(map(str, values))}")


PositiveInt = Annotated[int, Allowed(lambda value: value >= 1, "at least 1")]
NonNegativeInt = Annotated[int, Allowed(lambda value: value >= 0, "at least 0")]
PositiveFloat = Annotated[float, above(0)]
NonNegativeFloat = Annotated[float, at_least(0)]


def allowed_of(make: Callable[..., Any]) -> dict[str, Allowed]:
    """By parameter, what a function's annotations allow; parameters without a range are left out."""
    hints = get_type_hints(make, include_extras=True)
    ranges = {
        name: next((each for each in get_args(hint) if isinstance(each, Allowed)), None)
        for name, hint in hints.items()
    }
    return {name: each for name, each in ranges.items() if each is not None}


def with_checks(make: Callable[P, Made], family: str) -> Callable[P, Made]:
    """`make`, whose annotated ranges hold for every call, else InputError `family.parameter = value: ...`."""
    ranges = allowed_of(make)
    signature = inspect.signature(make)

    @functools.wraps(make)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Made:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in ranges and not ranges[name].test(value):
                raise InputError(f"{family}.{name} = {value}: must be {ranges[name].text}")
        return make(*args, **kwargs)

    return checked
