"""Splitwise: prompt queues for prefill, memory for decode, mixed replicas borrowed."""

import pytest

from servegym.agents.heuristics.splitwise import splitwise
from servegym.costmodels.errors import InputError
from tests.agents.heuristics.rows import choice, rows_of

ROUTER = splitwise(roles=("prefill", "prefill", "mixed", "decode", "decode"))


def test_prompts_join_the_shortest_queue_of_tokens() -> None:
    """Even where it has more requests and memory in use."""
    rows = rows_of(
        5,
        available=[1, 1, 1, 0, 0],
        queued_prefill_tokens=[500, 400, 0, 0, 0],
        running=[1, 9, 0, 0, 0],
        outstanding_tokens=[500, 9000, 0, 0, 0],
    )
    assert choice(ROUTER, rows) == 1


@pytest.mark.parametrize(
    ("queues", "expected"),
    [((9000, 8192, 0), 1), ((9000, 8193, 0), 2), ((9000, 8193, 8192), 2), ((9000, 8193, 8194), 1)],
)
def test_mixed_replicas_are_borrowed_when_the_queues_are_long(queues: tuple[int, ...], expected: int) -> None:
    rows = rows_of(5, available=[1, 1, 1, 0, 0], queued_prefill_tokens=[*queues, 0, 0])
    assert choice(ROUTER, rows) == expected


def test_the_limit_is_a_parameter() -> None:
    rows = rows_of(2, queued_prefill_tokens=[100, 0])
    assert choice(splitwise(100, ("prefill", "mixed")), rows) == 0
    assert choice(splitwise(99, ("prefill", "mixed")), rows) == 1


def test_decodes_join_the_least_memory() -> None:
    """Even where more is to be recomputed and more requests run."""
    rows = rows_of(
        5,
        available=[0, 0, 0, 1, 1],
        outstanding_tokens=[0, 0, 0, 900, 800],
        queued_prefill_tokens=[0, 0, 0, 0, 300],
        running=[0, 0, 0, 1, 9],
    )
    assert choice(ROUTER, rows) == 4


def test_mixed_replicas_decode_where_nobody_else_does() -> None:
    rows = rows_of(
        3, available=[0, 1, 1], outstanding_tokens=[0, 900, 800], queued_prefill_tokens=[0, 0, 300]
    )
    assert choice(splitwise(roles=("prefill", "mixed", "mixed")), rows) == 2
    assert choice(splitwise(roles=("decode", "mixed", "mixed")), rows) == 1  # these prefill only


def test_all_prefill_replicas_gone() -> None:
    """With decode replicas in the fleet, mixed ones alone are asked to prefill."""
    rows = rows_of(5, available=[0, 0, 1, 0, 0], queued_prefill_tokens=[0, 0, 9999, 0, 0])
    assert choice(ROUTER, rows) == 2


def test_ties_and_nobody() -> None:
    assert choice(ROUTER, rows_of(5, available=[1, 1, 0, 0, 0], waiting=[2, 1, 0, 0, 0])) == 1
    assert choice(ROUTER, rows_of(5, available=[0, 0, 0, 1, 1], waiting=[0, 0, 0, 1, 1])) == 3
    assert choice(ROUTER, rows_of(5, available=[0] * 5)) == -1


def test_parameters() -> None:
    assert ROUTER.needs == {"roles"}
    with pytest.raises(InputError, match="router.prompt_queue_limit = -1: must be at least 0"):
        splitwise(prompt_queue_limit=-1)
    with pytest.raises(InputError, match="router.roles = prefil: must be one of mixed, prefill, decode"):
        splitwise(roles=("prefil",))
