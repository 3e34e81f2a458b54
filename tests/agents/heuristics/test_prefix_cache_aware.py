"""SGLang's three cases."""

import pytest

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from tests.agents.heuristics.rows import Asking, rows_of


def test_balanced_and_matched_goes_to_the_longest_match() -> None:
    """51 of 100 tokens are above the threshold, 50 are not."""
    ask = Asking(make_router("prefix_cache_aware"), 3)
    used = {"kv_used_blocks": [10, 90, 90], "running": [0, 32, 5]}
    assert ask(rows_of(3, prefix_hit_tokens=[0, 51, 40], **used), prompt_tokens=100) == 1
    assert ask(rows_of(3, prefix_hit_tokens=[0, 50, 40], **used), prompt_tokens=100) == 0


def test_without_a_match_to_the_most_free_blocks() -> None:
    ask = Asking(make_router("prefix_cache_aware"), 3)
    blocks = {"kv_used_blocks": [10, 20, 0], "kv_total_blocks": [100, 120, 50]}
    assert ask(rows_of(3, **blocks), prompt_tokens=100) == 1


def test_imbalance_needs_both_thresholds() -> None:
    """Differences of 32 and 33; and 133 against 100 where the ratio must be above 1.5."""
    match = {"prefix_hit_tokens": [90, 0, 0]}
    ask = Asking(make_router("prefix_cache_aware"), 3)
    assert ask(rows_of(3, running=[30, 0, 1], waiting=[2, 0, 0], **match), prompt_tokens=100) == 0
    assert ask(rows_of(3, running=[30, 0, 1], waiting=[3, 0, 0], **match), prompt_tokens=100) == 1
    ask = Asking(make_router("prefix_cache_aware", balance_rel_threshold=1.5), 3)
    assert ask(rows_of(3, running=[133, 110, 100], **match), prompt_tokens=100) == 0
    assert ask(rows_of(3, running=[151, 110, 100], **match), prompt_tokens=100) == 2


def test_the_unavailable_count_for_nothing() -> None:
    """Neither as match, nor as room, nor as the shortest queue."""
    ask = Asking(make_router("prefix_cache_aware"), 3)
    away = {"available": [0, 1, 1]}
    assert ask(rows_of(3, prefix_hit_tokens=[99, 60, 70], **away), prompt_tokens=100) == 2
    assert ask(rows_of(3, kv_used_blocks=[0, 9, 8], **away), prompt_tokens=100) == 2
    assert ask(rows_of(3, running=[0, 90, 50], **away), prompt_tokens=100) == 2
    assert ask(rows_of(3, running=[0, 60, 50], prefix_hit_tokens=[0, 99, 0], **away), prompt_tokens=100) == 1
    assert ask(rows_of(3, available=[0, 0, 0]), prompt_tokens=100) == -1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"cache_threshold": 1.1}, "router.cache_threshold = 1.1: must be from 0 to 1"),
        ({"balance_abs_threshold": -1}, "router.balance_abs_threshold = -1: must be at least 0"),
        ({"balance_rel_threshold": 0.5}, "router.balance_rel_threshold = 0.5: must be at least 1"),
    ],
)
def test_ranges(parameters: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_router("prefix_cache_aware", **parameters)
