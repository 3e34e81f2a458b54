"""A session stays where it began."""

import pytest

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from tests.agents.heuristics.rows import Asking, rows_of


def test_first_requests_go_by_load_and_the_rest_follow() -> None:
    ask = Asking(make_router("session_affinity"), 3)
    assert ask(rows_of(3, running=[2, 1, 0], waiting=[0, 0, 2]), session=0) == 1
    assert ask(rows_of(3, running=[2, 2, 0]), session=7) == 2
    assert ask(rows_of(3, running=[0, 99, 99]), session=0) == 1
    assert ask(rows_of(3, running=[0, 99, 99]), session=7) == 2
    assert ask(rows_of(3), session=8) == 0


def test_away_and_back() -> None:
    ask = Asking(make_router("session_affinity"), 3)
    assert ask(rows_of(3, running=[1, 0, 1]), session=5) == 1
    assert ask(rows_of(3, available=[1, 0, 1], running=[3, 0, 2]), session=5) == 2
    assert ask(rows_of(3, running=[0, 9, 0]), session=5) == 1
    assert ask(rows_of(3, available=[0, 0, 0]), session=5) == -1
    assert ask(rows_of(3, available=[0, 0, 0]), session=6) == -1
    assert ask(rows_of(3, running=[1, 1, 0]), session=6) == 2  # nowhere was not its replica


def test_a_session_is_forgotten_for_one_whose_number_falls_together() -> None:
    ask = Asking(make_router("session_affinity", sessions=4), 2)
    assert ask(rows_of(2, running=[1, 0]), session=2) == 1
    assert ask(rows_of(2, running=[0, 1]), session=3) == 0
    assert ask(rows_of(2, running=[0, 1]), session=6) == 0  # 2 modulo 4
    assert ask(rows_of(2, running=[0, 1]), session=2) == 0
    assert ask(rows_of(2, running=[1, 0]), session=3) == 0


def test_ranges() -> None:
    with pytest.raises(InputError, match="router.sessions = 0: must be at least 1"):
        make_router("session_affinity", sessions=0)
