"""Parameters of published policies, with the range of each where it is declared.

    @checked("router")
    def power_of_two(d: PositiveInt = 2) -> Router: ...

A call with a value out of range raises InputError `router.d = 0: must be at least 1`; the pages of policies
print the same ranges.
"""

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


def checked(family: str) -> Callable[[Callable[P, Made]], Callable[P, Made]]:
    """Decorator: annotated ranges hold for every call, else InputError `family.parameter = value: ...`."""

    def decorate(make: Callable[P, Made]) -> Callable[P, Made]:
        ranges = allowed_of(make)
        signature = inspect.signature(make)

        @functools.wraps(make)
        def checked_make(*args: P.args, **kwargs: P.kwargs) -> Made:
            given = signature.bind(*args, **kwargs).arguments
            for name, value in given.items():
                if name in ranges and not ranges[name].test(value):
                    raise InputError(f"{family}.{name} = {value}: must be {ranges[name].text}")
            return make(*args, **kwargs)

        return checked_make

    return decorate
