"""Marginal latency: where a request adds least to everyone's."""

from servegym.agents.heuristics.marginal_latency import marginal_latency
from servegym.agents.heuristics.min_min import min_min
from servegym.costmodels.iterations.linear import LinearClock
from tests.agents.heuristics.rows import choice, rows_of

CLOCK = LinearClock(10.0, 1.0, 2.0, 0.5)
ROUTER = marginal_latency(token_budget=100, mean_output_tokens=3, clock=CLOCK)


def test_a_long_prompt_spares_those_that_are_many() -> None:
    """50 tokens of prefill delay two that run by 50 s each: it waits 90 s for an iteration elsewhere instead.

    Alone: there 10 + 4 + 50 s with the two, elsewhere 90 + 10 + 50 s.
    """
    rows = rows_of(2, running=[2, 0], iteration_left_s=[0, 90])
    alone = {"prompt_tokens": 50.0, "predicted_output_tokens": 1.0}
    assert choice(min_min(token_budget=100, clock=CLOCK), rows, **alone) == 0
    assert choice(ROUTER, rows, **alone) == 1
    assert choice(ROUTER, rows, prompt_tokens=30, predicted_output_tokens=1) == 0  # 44 + 60 against 130


def test_those_waiting_are_delayed_by_prefill_only() -> None:
    """Of 11 output tokens 10 are decoded beside the one that runs, each for 2 + 0.5 (4 + 5.5) s longer.

    With it: 12 + 4, 10 * 18.75 and 4 + 10 * 6.75, 275 s in all. Behind the waiting one: 10 + 4, 10 * 16.75
    and 4, which is 185.5 s.
    """
    rows = rows_of(2, running=[1, 0], waiting=[0, 1])
    assert choice(ROUTER, rows, prompt_tokens=4, predicted_output_tokens=11) == 1
    late = rows_of(2, running=[1, 0], waiting=[0, 1], iteration_left_s=[0, 89])
    assert choice(ROUTER, late, prompt_tokens=4, predicted_output_tokens=11) == 1
    late = rows_of(2, running=[1, 0], waiting=[0, 1], iteration_left_s=[0, 90])
    assert choice(ROUTER, late, prompt_tokens=4, predicted_output_tokens=11) == 0


def test_cached_prefixes_delay_nobody() -> None:
    rows = rows_of(2, running=[2, 2], prefix_hit_tokens=[0, 16])
    assert choice(ROUTER, rows, prompt_tokens=40) == 1


def test_ties_and_availability() -> None:
    clock = LinearClock(10.0, 0.0, 0.0, 0.0)
    router = marginal_latency(token_budget=100, clock=clock)
    assert choice(router, rows_of(3, waiting=[2, 1, 1]), prompt_tokens=5) == 1
    assert choice(router, rows_of(2, available=[0, 1], running=[0, 9]), prompt_tokens=5) == 1
    assert choice(router, rows_of(2, available=[0, 0]), prompt_tokens=5) == -1
