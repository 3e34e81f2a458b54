"""Ranges of parameters, declared once."""

import math
from typing import Annotated

import pytest

from servegym.agents.parameters import (
    PositiveInt,
    above,
    allowed_of,
    at_least,
    below,
    one_of,
    with_checks,
    within,
)
from servegym.costmodels.errors import InputError


def unchecked(
    count: PositiveInt = 2,
    seconds: Annotated[float, above(0)] = 0.5,
    share: Annotated[float, within(0, 1)] = 1.0,
    by: Annotated[str, one_of("session", "prefix")] = "session",
    ratio: Annotated[float, at_least(1)] = 1.5,
    watermark: Annotated[float, below(0, 1)] = 0.0,
    name: str = "",
) -> tuple[object, ...]:
    """Gives back what it was given."""
    return count, seconds, share, by, ratio, watermark, name


made = with_checks(unchecked, "router")


def test_values_in_range_are_passed_on() -> None:
    assert made(1, 1e-9, share=0.0, by="prefix", name="x") == (1, 1e-9, 0.0, "prefix", 1.5, 0.0, "x")
    assert made.__name__ == "unchecked"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"count": 0}, "router.count = 0: must be at least 1"),
        ({"seconds": 0.0}, "router.seconds = 0.0: must be above 0 and finite"),
        ({"seconds": math.nan}, "router.seconds = nan: must be above 0 and finite"),
        ({"seconds": math.inf}, "router.seconds = inf: must be above 0 and finite"),
        ({"share": 1.01}, "router.share = 1.01: must be from 0 to 1"),
        ({"ratio": 0.5}, "router.ratio = 0.5: must be at least 1 and finite"),
        ({"watermark": 1.0}, "router.watermark = 1.0: must be at least 0 and below 1"),
        ({"by": "user"}, "router.by = user: must be one of session, prefix"),
    ],
)
def test_others_are_refused_with_the_range(given: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as error:
        made(**given)  # type: ignore[arg-type]
    assert str(error.value) == said


def test_the_ranges_can_be_read() -> None:
    assert {name: each.text for name, each in allowed_of(made).items()} == {
        "count": "at least 1",
        "seconds": "above 0 and finite",
        "share": "from 0 to 1",
        "by": "one of session, prefix",
        "ratio": "at least 1 and finite",
        "watermark": "at least 0 and below 1",
    }
