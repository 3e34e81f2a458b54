"""Keys stay where they are, loads stay bounded."""

from collections import Counter

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from tests.agents.heuristics.rows import Asking, rows_of


def homes(ask: Asking, replicas: np.ndarray, keys: int = 400, **about: float) -> list[int]:
    return [ask(replicas, prefix=key, **about) for key in range(keys)]


def test_equal_keys_meet_and_shares_are_about_equal() -> None:
    """With 160 places each, shares of the ring have a standard deviation of about 8 % of their mean."""
    ask = Asking(make_router("consistent_hashing", c=100.0), 8)
    found = homes(ask, rows_of(8), 8000)
    assert found == homes(ask, rows_of(8), 8000)
    assert all(700 < count < 1300 for count in Counter(found).values())
    assert len(Counter(found)) == 8


def test_a_replica_that_leaves_takes_only_its_own_keys_along() -> None:
    ask = Asking(make_router("consistent_hashing", c=100.0), 5)
    before, after = homes(ask, rows_of(5)), homes(ask, rows_of(5, available=[1, 1, 0, 1, 1]))
    moved = {a for a, b in zip(before, after, strict=True) if a != b}
    assert moved == {2}
    assert 2 not in after
    assert len({b for a, b in zip(before, after, strict=True) if a == 2}) > 1  # spread over the others


def test_nobody_has_more_than_the_bound() -> None:
    """One key alone: 1.25 times the mean of 8 requests over 4 replicas, ceil(1.25 * 8 / 4) = 3."""
    ask = Asking(make_router("consistent_hashing"), 4)
    load = np.zeros(4)
    order = []
    for number in range(8):
        room = np.ceil(1.25 * (number + 1) / 4)
        chosen = ask(rows_of(4, running=np.floor(load / 2), waiting=np.ceil(load / 2)), prefix=7)
        assert load[chosen] + 1 <= room
        order.append(chosen)
        load[chosen] += 1
    assert load.max() == 3
    assert order[0] == ask(rows_of(4), prefix=7)


def test_spill_goes_on_along_the_ring() -> None:
    """A full home is as good as one that is away."""
    ask = Asking(make_router("consistent_hashing"), 3)
    for key in range(50):
        home = ask(rows_of(3), prefix=key)
        full = np.where(np.arange(3) == home, 9, 0)
        assert ask(rows_of(3, running=full), prefix=key) == ask(rows_of(3, available=full == 0), prefix=key)


def test_the_key_is_prefix_or_session() -> None:
    by_prefix = Asking(make_router("consistent_hashing", c=100.0), 8)
    by_session = Asking(make_router("consistent_hashing", c=100.0, by="session"), 8)
    assert len({by_prefix(rows_of(8), prefix=3, session=number) for number in range(50)}) == 1
    assert len({by_session(rows_of(8), prefix=number, session=3) for number in range(50)}) == 1
    alone = [by_prefix(rows_of(8), prefix=-1, session=number) for number in range(50)]
    assert alone == [by_session(rows_of(8), session=number) for number in range(50)]
    assert len(set(alone)) > 3
    assert by_prefix.router.needs == {"prefixes"}
    assert by_session.router.needs == {"sessions"}


def test_even_the_tightest_bound_finds_room() -> None:
    ask = Asking(make_router("consistent_hashing", c=1.0, virtual_nodes=1), 3)
    assert ask(rows_of(3, running=[4, 4, 3]), prefix=1) == 2
    assert ask(rows_of(3, available=[0, 0, 0]), prefix=1) == -1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"c": 0.9}, "router.c = 0.9: must be at least 1"),
        ({"c": float("nan")}, "router.c = nan: must be at least 1"),
        ({"virtual_nodes": 0}, "router.virtual_nodes = 0: must be from 1 to 10000"),
        ({"by": "user"}, "router.by = user: must be one of prefix, session"),
    ],
)
def test_ranges(parameters: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_router("consistent_hashing", **parameters)
