"""E2 by hand, with a second for each token missed and for each request unfinished."""

import pytest

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.router import Router
from tests.agents.heuristics.rows import Asking, rows_of


def preble(**parameters: float) -> Router:
    ours = {"prefill_s_per_token": 1.0, "decode_s_per_token": 0.1, "output_tokens": 10.0}
    return make_router("preble", **(ours | parameters))


def test_exploits_where_more_is_cached_than_new() -> None:
    ask = Asking(preble(), 3)
    busy = {"running": [0, 200, 0]}
    assert ask(rows_of(3, prefix_hit_tokens=[0, 51, 40], **busy), prompt_tokens=100) == 1
    assert ask(rows_of(3, prefix_hit_tokens=[0, 50, 40], **busy), prompt_tokens=100) == 2


def test_of_equal_matches_the_one_of_least_load() -> None:
    ask = Asking(preble(), 3)
    assert ask(rows_of(3, prefix_hit_tokens=[80, 80, 0], running=[3, 2, 0]), prompt_tokens=100) == 1
    assert ask(rows_of(3, prefix_hit_tokens=[80, 80, 0], running=[3, 3, 0]), prompt_tokens=100) == 0


def test_explores_by_what_was_sent_lately() -> None:
    """100 and 40 tokens were sent to 0 and 1; then two requests of 30; unfinished requests weigh too."""
    ask = Asking(preble(), 2)
    assert ask(rows_of(2), prompt_tokens=100) == 0
    assert ask(rows_of(2), prompt_tokens=40) == 1
    assert ask(rows_of(2), prompt_tokens=30) == 1
    assert ask(rows_of(2), prompt_tokens=40) == 1  # 70 before, 110 after
    assert ask(rows_of(2), prompt_tokens=5) == 0
    assert ask(rows_of(2, waiting=[6, 0]), prompt_tokens=5) == 1  # 105 + 6 against 110


def test_cached_tokens_are_no_load() -> None:
    ask = Asking(preble(), 2)
    assert ask(rows_of(2, prefix_hit_tokens=[90, 0]), prompt_tokens=100) == 0
    assert ask(rows_of(2), prompt_tokens=9) == 1
    assert ask(rows_of(2), prompt_tokens=9) == 1  # 10 against 9


def test_the_window_forgets() -> None:
    """In parts of 10 s: what was sent at 5 s is forgotten at 180 s, not before."""
    ask = Asking(preble(), 2)
    assert ask(rows_of(2), prompt_tokens=100, gap_s=5.0) == 0
    assert ask(rows_of(2), prompt_tokens=50, gap_s=100.0) == 1
    assert ask(rows_of(2), prompt_tokens=1, gap_s=74.0) == 1
    assert ask(rows_of(2), prompt_tokens=1, gap_s=2.0) == 0
    assert ask(rows_of(2), prompt_tokens=1, gap_s=1e9) == 0
    assert ask(rows_of(2), prompt_tokens=1) == 1


def test_rebalances_the_heaviest_to_the_lightest_after_enough_requests() -> None:
    """The match is on 0. Loads 30 and 20: the ratio is 1.5."""
    held = {"prefix_hit_tokens": [100, 0]}
    ask = Asking(preble(rebalance_after=2), 2)
    assert ask(rows_of(2, running=[30, 20], **held), prompt_tokens=100) == 0
    assert ask(rows_of(2, running=[30, 20], prefix_hit_tokens=[0, 100]), prompt_tokens=100) == 1
    assert ask(rows_of(2, running=[20, 30], **held), prompt_tokens=100) == 0
    assert ask(rows_of(2, running=[30, 20], **held), prompt_tokens=100) == 0  # 1 has been sent one request
    assert ask(rows_of(2, running=[30, 40], prefix_hit_tokens=[0, 100]), prompt_tokens=100) == 1
    assert ask(rows_of(2, running=[29, 20], **held), prompt_tokens=100) == 0
    assert ask(rows_of(2, running=[30, 20], **held), prompt_tokens=100) == 1


def test_the_unavailable_are_left_out() -> None:
    ask = Asking(preble(rebalance_after=0), 3)
    held = {"prefix_hit_tokens": [99, 80, 0], "running": [9, 3, 2]}
    assert ask(rows_of(3, available=[0, 1, 1], **held), prompt_tokens=100) == 2  # 1 is the heaviest by 1.5
    held["running"] = [0, 2, 2]
    assert ask(rows_of(3, available=[0, 1, 1], **held), prompt_tokens=1000) == 1
    assert ask(rows_of(3, available=[0, 0, 0], **held), prompt_tokens=100) == -1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"window_s": 0.0}, "router.window_s = 0.0: must be above 0 and finite"),
        ({"output_tokens": float("inf")}, "router.output_tokens = inf: must be above 0 and finite"),
        ({"rebalance_ratio": 0.9}, "router.rebalance_ratio = 0.9: must be at least 1"),
        ({"rebalance_after": -1}, "router.rebalance_after = -1: must be at least 0"),
    ],
)
def test_ranges(parameters: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_router("preble", **parameters)
