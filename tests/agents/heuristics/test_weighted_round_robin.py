"""Turns in proportion to weights."""

from collections import Counter

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from tests.agents.heuristics.rows import Asking, rows_of


def test_smooth_turns_by_hand() -> None:
    """nginx's own example: weights 5, 1, 1."""
    ask = Asking(make_router("weighted_round_robin", weights=[5, 1, 1]), 3)
    assert [ask(rows_of(3)) for _ in range(14)] == [0, 0, 1, 0, 2, 0, 0] * 2


def test_equal_weights_are_round_robin() -> None:
    ask = Asking(make_router("weighted_round_robin"), 3)
    assert [ask(rows_of(3)) for _ in range(6)] == [0, 1, 2, 0, 1, 2]


def test_shares_and_weights_beyond_the_list() -> None:
    ask = Asking(make_router("weighted_round_robin", weights=[2.5, 0.5]), 3)
    assert Counter(ask(rows_of(3)) for _ in range(400)) == {0: 250, 1: 50, 2: 100}


def test_the_unavailable_neither_gain_nor_pay() -> None:
    """After any number of turns without it a replica has no turns to catch up with."""
    ask = Asking(make_router("weighted_round_robin"), 3)
    assert [ask(rows_of(3, available=[1, 0, 1])) for _ in range(4)] == [0, 2, 0, 2]
    assert [ask(rows_of(3)) for _ in range(3)] == [0, 1, 2]
    assert ask(rows_of(3, available=[0, 0, 0])) == -1
    assert [ask(rows_of(3)) for _ in range(3)] == [0, 1, 2]


def test_sets_that_alternate_take_turns_apart() -> None:
    ask = Asking(make_router("weighted_round_robin"), 5)
    stages = [rows_of(5, available=[1, 1, 0, 0, 0]), rows_of(5, available=[0, 0, 1, 1, 1])]
    chosen = [ask(stages[turn % 2]) for turn in range(12)]
    assert chosen[0::2] == [0, 1] * 3
    assert chosen[1::2] == [2, 3, 4] * 2


@pytest.mark.parametrize("weight", [0.0, -1.0, np.inf, np.nan])
def test_weights_are_positive(weight: float) -> None:
    with pytest.raises(InputError, match=r"router.weights\[1\] = .*: must be above 0 and finite"):
        make_router("weighted_round_robin", weights=[1.0, weight])
