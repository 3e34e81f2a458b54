"""What is known of a published policy beside its rule: where it is from, how sure we are, what it costs.

    @published("router", source="...", evidence=Evidence.PAPER, complexity="O(d)")
    def power_of_two(d: PositiveInt = 2) -> Router: ...

A call with a value out of range raises InputError `router.d = 0: must be at least 1`. The pages of policies
are made of this and of the docstring of the module.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ParamSpec, TypeVar

from servegym.agents.parameters import with_checks
from servegym.costmodels.errors import InputError

P = ParamSpec("P")
Made = TypeVar("Made")


class Evidence(Enum):
    """How we know a rule, the surest first."""

    CODE = "read in the authors' code"
    PAPER = "as the paper states it"
    COMMON = "commonly known; written from no one's code"
    SECOND_HAND = "from descriptions by others"
    READING = "our reading: the exact rule was not at hand"
    OURS = "our own"


@dataclass(frozen=True)
class Publication:
    """Family of policies, source (authors, title, where), evidence, and the work of one decision.

    complexity: in O(...), with R replicas, n requests on a replica.
    """

    family: str
    source: str
    evidence: Evidence
    complexity: str


def published(
    family: str, *, source: str, evidence: Evidence, complexity: str
) -> Callable[[Callable[P, Made]], Callable[P, Made]]:
    """Decorator of the function that makes a policy: keeps this for its page, and checks its parameters."""

    def decorate(make: Callable[P, Made]) -> Callable[P, Made]:
        checked = with_checks(make, family)
        checked.publication = Publication(family, source, evidence, complexity)  # type: ignore[attr-defined]
        return checked

    return decorate


def publication_of(make: Callable[..., Any]) -> Publication:
    """What `published` has kept of it."""
    publication: Publication = make.publication  # type: ignore[attr-defined]
    return publication


def make_published(
    family: str, makers: Mapping[str, Callable[..., Made]], name: str, parameters: Mapping[str, object]
) -> Made:
    """The policy `name`, one of those that `makers` make; InputError for unknown names and parameters."""
    if name not in makers:
        raise InputError(f"{family} = {name}: must be one of {', '.join(makers)}")
    try:
        return makers[name](**parameters)
    except TypeError as error:
        raise InputError(f"{family} {name}: {error}") from error
