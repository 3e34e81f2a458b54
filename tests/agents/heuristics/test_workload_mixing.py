"""Workload mixing: prompts and contexts weighed by what they slow down."""

import pytest

from servegym.agents.heuristics.workload_mixing import workload_mixing
from servegym.costmodels.errors import InputError
from tests.agents.heuristics.rows import choice, rows_of

ROWS = rows_of(2, queued_prefill_tokens=[100, 0], decode_context_tokens=[0, 1000])


def test_prompts_against_contexts() -> None:
    """100 prompt tokens are worth 3.2e-4 / 3.3e-5 * 100 = 970 context tokens."""
    assert choice(workload_mixing(), ROWS, prompt_tokens=10) == 0
    fewer = rows_of(2, queued_prefill_tokens=[100, 0], decode_context_tokens=[0, 960])
    assert choice(workload_mixing(), fewer, prompt_tokens=10) == 1
    assert choice(workload_mixing(alpha=1.0), ROWS, prompt_tokens=10) == 1
    assert choice(workload_mixing(alpha=0.0), fewer, prompt_tokens=10) == 0
    assert choice(workload_mixing(grad1=1e-3), ROWS, prompt_tokens=10) == 1
    assert choice(workload_mixing(grad2=0.0), ROWS, prompt_tokens=10) == 1


def test_cached_prefixes_need_no_prefill() -> None:
    rows = rows_of(2, queued_prefill_tokens=[0, 10], prefix_hit_tokens=[0, 16])
    assert choice(workload_mixing(), rows, prompt_tokens=20) == 1


def test_ties_and_availability() -> None:
    assert choice(workload_mixing(), rows_of(3, running=[2, 1, 1])) == 1
    assert choice(workload_mixing(), rows_of(2, available=[0, 1], queued_prefill_tokens=[0, 9])) == 1
    assert choice(workload_mixing(), rows_of(2, available=[0, 0])) == -1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": 1.5}, "router.alpha = 1.5: must be from 0 to 1"),
        ({"alpha": -0.5}, "router.alpha = -0.5: must be from 0 to 1"),
        ({"grad1": -1.0}, "router.grad1 = -1.0: must be at least 0 and finite"),
        ({"grad2": float("inf")}, "router.grad2 = inf: must be at least 0 and finite"),
    ],
)
def test_ranges(parameters: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        workload_mixing(**parameters)
