"""Max capacity: the most free KV blocks."""

from servegym.agents.heuristics.lowest_kv_use import lowest_kv_use
from servegym.agents.heuristics.max_capacity import max_capacity
from tests.agents.heuristics.rows import choice, rows_of

ROUTER = max_capacity()


def test_blocks_count_not_shares() -> None:
    rows = rows_of(2, kv_total_blocks=[100, 400], kv_used_blocks=[30, 300])
    assert choice(ROUTER, rows) == 1
    assert choice(lowest_kv_use(), rows) == 0


def test_ties_go_to_the_fewest_requests() -> None:
    assert choice(ROUTER, rows_of(3, running=[3, 1, 1], waiting=[0, 1, 0])) == 2
    assert choice(ROUTER, rows_of(3, running=[2, 1, 1])) == 1


def test_only_available_replicas() -> None:
    assert choice(ROUTER, rows_of(3, available=[0, 1, 1], kv_used_blocks=[0, 90, 80])) == 2
    assert choice(ROUTER, rows_of(2, available=[0, 0])) == -1
