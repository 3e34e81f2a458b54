"""Min-min: where a request is complete soonest."""

from servegym.agents.heuristics.min_min import min_min
from servegym.agents.heuristics.predicted_ttft import predicted_ttft
from servegym.costmodels.iterations.linear import LinearClock
from tests.agents.heuristics.rows import choice, rows_of

CLOCK = LinearClock(10.0, 1.0, 2.0, 0.5)
ROUTER = min_min(token_budget=100, mean_output_tokens=3, clock=CLOCK)


def test_decoding_may_outweigh_the_first_token() -> None:
    """31 tokens queued or 56 decoded: a first token after 10 + 36 or after 10 + 2 + 28 + 5 s.

    The two iterations after it last 10 + 2 + 3.25 s on the first, 10 + 4 + 31.25 s on the second.
    """
    rows = rows_of(2, queued_prefill_tokens=[31, 0], running=[0, 1], decode_context_tokens=[0, 56])
    assert choice(predicted_ttft(token_budget=100, clock=CLOCK), rows, prompt_tokens=5) == 1
    assert choice(ROUTER, rows, prompt_tokens=5) == 0
    assert choice(ROUTER, rows, prompt_tokens=5, predicted_output_tokens=1) == 1


def test_faster_replicas_decode_faster() -> None:
    rows = rows_of(2, iteration_left_s=[0, 20], speed=[1, 2])
    assert choice(ROUTER, rows, prompt_tokens=5, predicted_output_tokens=1) == 0
    assert choice(ROUTER, rows, prompt_tokens=5, predicted_output_tokens=100) == 1


def test_ties_and_availability() -> None:
    assert choice(ROUTER, rows_of(3, waiting=[2, 1, 1]), prompt_tokens=5) == 1
    assert choice(ROUTER, rows_of(2, available=[0, 1], running=[0, 9]), prompt_tokens=5) == 1
    assert choice(ROUTER, rows_of(2, available=[0, 0]), prompt_tokens=5) == -1
