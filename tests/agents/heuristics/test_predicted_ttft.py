"""Predicted TTFT: where the first token comes soonest."""

import math

import numpy as np
import pytest

from servegym.agents.heuristics.predicted_ttft import predicted_ttft
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.linear import LinearClock
from tests.agents.heuristics.rows import choice, rows_of

ROUTER = predicted_ttft(token_budget=100, clock=LinearClock(10.0, 1.0, 2.0, 0.5))


def test_the_soonest_first_token() -> None:
    """50 + 10, 40 less of a prefix against 25 more queued, twice as fast but 40 s of an iteration left."""
    rows = rows_of(3, queued_prefill_tokens=[0, 25, 0], speed=[1, 1, 2], iteration_left_s=[0, 0, 40])
    assert choice(ROUTER, rows, prompt_tokens=50) == 0
    rows[1, 11] = 32  # prefix_hit_tokens: 25 + 18 tokens instead of 50
    assert choice(ROUTER, rows, prompt_tokens=50) == 1
    rows[2, 8] = 20  # iteration_left_s: 20 + 60 / 2 = 50 against 53
    assert choice(ROUTER, rows, prompt_tokens=50) == 2


def test_long_contexts_count_but_not_the_number_of_requests() -> None:
    """JSQ would take the one request of 200 tokens: 10 + 2 + 100 against 10 + 6 + 15."""
    rows = rows_of(2, running=[1, 3], decode_context_tokens=[200, 30])
    assert choice(ROUTER, rows, prompt_tokens=50) == 1


def test_ties_go_to_the_fewest_requests() -> None:
    clock = LinearClock(10.0, 1.0, 0.0, 0.0)
    router = predicted_ttft(token_budget=100, clock=clock)
    assert choice(router, rows_of(3, running=[4, 2, 2]), prompt_tokens=10) == 1
    full = rows_of(3, kv_used_blocks=[100, 100, 100], running=[4, 2, 1], waiting=[0, 0, 2])
    assert choice(router, full, prompt_tokens=10) == 1  # nobody knows when blocks will be free


def test_only_available_replicas() -> None:
    assert choice(ROUTER, rows_of(3, available=[0, 1, 1], running=[0, 9, 8]), prompt_tokens=10) == 2
    assert choice(ROUTER, rows_of(2, available=[0, 0]), prompt_tokens=10) == -1


def test_parameters() -> None:
    np.testing.assert_array_equal(ROUTER.parameters[:6], [10, 1, 2, 0.5, 100, 16])
    with pytest.raises(InputError, match="router.token_budget = 0: must be at least 1"):
        predicted_ttft(token_budget=0)
    with pytest.raises(InputError, match="clock.s_per_decode = inf"):
        predicted_ttft(clock=LinearClock(0, 0, math.inf, 0))
