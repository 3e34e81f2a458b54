"""Weighted scores."""

from collections import Counter

import pytest

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from tests.agents.heuristics.rows import Asking, rows_of


def test_scores_by_hand() -> None:
    """Prompt of 100 tokens, 6 full blocks of 16.

    0: 3 * 0     + 2 * (8 - 0) / 8 + 2 * 0.5 = 3
    1: 3 * 48/96 + 2 * (8 - 4) / 8 + 2 * 0.2 = 2.9
    2: 3 * 96/96 + 2 * 0           + 2 * 0.1 = 3.2
    """
    columns = {"prefix_hit_tokens": [0, 48, 96], "waiting": [0, 4, 8], "kv_used_blocks": [50, 80, 90]}
    assert Asking(make_router("llm_d"), 3)(rows_of(3, **columns), prompt_tokens=100) == 2
    assert Asking(make_router("llm_d", prefix_weight=2.5), 3)(rows_of(3, **columns), prompt_tokens=100) == 0
    assert Asking(make_router("llm_d", kv_weight=0.1), 3)(rows_of(3, **columns), prompt_tokens=100) == 2
    columns["waiting"] = [8, 4, 9]  # 0: 0.4 + 1, 1: 1.5 + 2 + 0.4, 2: 3 + 0.2
    assert Asking(make_router("llm_d"), 3)(rows_of(3, **columns), prompt_tokens=100) == 1


def test_the_queue_is_that_of_those_available() -> None:
    """Among queues of 4 and 0 the prefix loses, beside a third of 100 it would win."""
    columns = {"waiting": [4, 0, 100], "prefix_hit_tokens": [32, 0, 0]}
    ask = Asking(make_router("llm_d"), 3)
    assert ask(rows_of(3, **columns), prompt_tokens=64) == 0
    assert ask(rows_of(3, available=[1, 1, 0], **columns), prompt_tokens=64) == 1
    assert ask(rows_of(3, available=[0, 0, 0], **columns), prompt_tokens=64) == -1


def test_ties_are_broken_evenly() -> None:
    ask = Asking(make_router("llm_d"), 4)
    counts = Counter(ask(rows_of(4, kv_used_blocks=[0, 9, 0, 0])) for _ in range(6000))
    assert set(counts) == {0, 2, 3}
    assert all(abs(count - 2000) < 150 for count in counts.values())


def test_without_a_full_block_there_is_no_prefix_score() -> None:
    ask = Asking(make_router("llm_d"), 2)
    assert ask(rows_of(2, kv_used_blocks=[1, 0]), prompt_tokens=15) == 1


def test_needs_the_cache_only_where_it_weighs() -> None:
    assert make_router("llm_d").needs == {"prefix_caching"}
    assert make_router("llm_d", prefix_weight=0.0).needs == set()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"queue_weight": -1.0}, "router.queue_weight = -1.0: must be at least 0 and finite"),
        (dict.fromkeys(("prefix_weight", "queue_weight", "kv_weight"), 0.0), "= 0: one must be above 0"),
        ({"block_size": 0}, "router.block_size = 0: must be at least 1"),
    ],
)
def test_ranges(parameters: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_router("llm_d", **parameters)
