"""What is known of each published policy."""

import pytest

from servegym.agents.heuristics import ROUTERS
from servegym.agents.parameters import PositiveInt
from servegym.agents.published import Evidence, publication_of, published
from servegym.agents.schedulers import SCHEDULERS
from servegym.costmodels.errors import InputError


@published("router", source="Somebody, 1999", evidence=Evidence.PAPER, complexity="O(1)")
def made(d: PositiveInt = 2) -> int:
    """Gives back what it was given."""
    return d


def test_it_is_kept_and_parameters_are_checked() -> None:
    publication = publication_of(made)
    assert publication.source == "Somebody, 1999"
    assert publication.evidence.value == "as the paper states it"
    assert made(3) == 3
    with pytest.raises(InputError, match=r"^router.d = 0: must be at least 1$"):
        made(0)


FAMILIES = {"router": ROUTERS, "scheduler": SCHEDULERS}


@pytest.mark.parametrize(("family", "name"), [(f, name) for f in FAMILIES for name in FAMILIES[f]])
def test_every_policy_says_where_it_is_from(family: str, name: str) -> None:
    publication = publication_of(FAMILIES[family][name])
    assert publication.family == family
    assert publication.source
    assert publication.complexity.startswith("O(")
