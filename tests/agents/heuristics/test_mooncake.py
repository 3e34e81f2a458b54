"""Algorithm 1 of the paper, by hand."""

import pytest

from servegym.agents.heuristics import make_router
from servegym.costmodels.errors import InputError
from tests.agents.heuristics.rows import Asking, rows_of

SECONDS = {"prefill_s_per_token": 0.01, "transfer_s_per_token": 0.001}


def test_own_prefix_below_the_threshold_best_prefix_beyond() -> None:
    """Prompt of 1000 tokens, best prefix 800, threshold 2.

    0: best itself:              0.01 * (900 + 1000 - 800)         = 11
    1: 800 / 500 < 2, own:       0.01 * (400 + 1000 - 500)         =  9
    2: 800 / 100 >= 2, fetched:  0.01 * (590 + 200) + 0.001 * 700  =  8.6
    """
    columns = {"prefix_hit_tokens": [800, 500, 100], "queued_prefill_tokens": [900, 400, 590]}
    ask = Asking(make_router("mooncake", **SECONDS), 3)
    assert ask(rows_of(3, **columns), prompt_tokens=1000) == 2
    columns["queued_prefill_tokens"] = [900, 400, 640]  # 2: 9.1
    assert ask(rows_of(3, **columns), prompt_tokens=1000) == 1
    ask = Asking(make_router("mooncake", kvcache_balancing_threshold=9.0, **SECONDS), 3)
    columns["queued_prefill_tokens"] = [900, 400, 0]  # 2: 0.01 * 900, as 1; then fewer requests
    assert ask(rows_of(3, **columns), prompt_tokens=1000) == 1
    assert ask(rows_of(3, running=[0, 1, 0], **columns), prompt_tokens=1000) == 2


def test_a_prefix_that_cannot_be_fetched() -> None:
    ask = Asking(make_router("mooncake", transfer_s_per_token=float("inf")), 3)
    columns = {"prefix_hit_tokens": [64, 0, 64], "queued_prefill_tokens": [900, 0, 400]}
    assert ask(rows_of(3, **columns), prompt_tokens=100) == 2


def test_without_prefixes_the_least_queued_then_the_fewest_requests() -> None:
    ask = Asking(make_router("mooncake"), 3)
    assert ask(rows_of(3, queued_prefill_tokens=[5, 0, 3], running=[0, 9, 0]), prompt_tokens=100) == 1
    assert ask(rows_of(3, running=[2, 1, 1], waiting=[0, 1, 0]), prompt_tokens=100) == 2
    assert ask(rows_of(3), prompt_tokens=100) == 0


def test_the_unavailable_have_no_prefix_to_give() -> None:
    ask = Asking(make_router("mooncake", **SECONDS), 3)
    columns = {"prefix_hit_tokens": [96, 32, 0], "queued_prefill_tokens": [0, 30, 0]}
    assert ask(rows_of(3, **columns), prompt_tokens=100) == 0
    # 1: 0.01 * (30 + 68) = 0.98; 2 fetches the 32 tokens of 1: 0.01 * 68 + 0.032
    assert ask(rows_of(3, available=[0, 1, 1], **columns), prompt_tokens=100) == 2
    assert ask(rows_of(3, available=[0, 0, 0], **columns), prompt_tokens=100) == -1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"kvcache_balancing_threshold": 0.5},
            "router.kvcache_balancing_threshold = 0.5: must be at least 1",
        ),
        ({"prefill_s_per_token": 0.0}, "router.prefill_s_per_token = 0.0: must be above 0 and finite"),
        ({"transfer_s_per_token": -1.0}, "router.transfer_s_per_token = -1.0: must be from 0 to inf"),
    ],
)
def test_ranges(parameters: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_router("mooncake", **parameters)
