"""Each ranking of waiting queues on requests few enough to order by hand."""

import numpy as np
import pytest

from servegym.agents.schedulers import make_scheduler
from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.linear import LinearClock
from tests.agents.schedulers.rows import Asked, order_of, rows_of


def test_sjf_serves_the_shortest_prediction_and_of_equals_the_first() -> None:
    rows = rows_of(4, predicted_output_tokens=[30, 10, 20, 10], arrival_s=[0, 3, 1, 2])
    assert order_of(make_scheduler("sjf"), rows) == [3, 1, 2, 0]


def test_priority_serves_the_most_urgent_and_of_equals_the_first() -> None:
    rows = rows_of(4, priority=[2, 0, 1, 0], arrival_s=[0, 3, 1, 2])
    assert order_of(make_scheduler("priority"), rows) == [3, 1, 2, 0]


def test_edf_adds_the_promise_to_the_arrival_and_serves_the_unpromised_last() -> None:
    """Due at 1 + 0.5, 0 + 2, never, and at 1.4 + 0.2."""
    rows = rows_of(4, arrival_s=[1, 0, 0.1, 1.4], ttft_slo_s=[0.5, 2, np.inf, 0.2])
    scheduler = make_scheduler("edf")
    assert Asked(scheduler).keys(rows).tolist() == [1.5, 2.0, np.inf, pytest.approx(1.6)]
    assert order_of(scheduler, rows) == [0, 3, 1, 2]


def test_slack_is_the_latest_start() -> None:
    """Last tokens are due at 1 + 2 + 10 * 0.5 and 1 + 2 + 0 * 0.5; 100 tokens of prompt take 1 s, ten 2 s."""
    rows = rows_of(
        3,
        arrival_s=1,
        prompt_tokens=100,
        predicted_output_tokens=[11, 1, 11],
        ttft_slo_s=2,
        tpot_slo_s=[0.5, 0.5, np.inf],
    )
    scheduler = make_scheduler("slack", s_per_prompt_token=0.01, s_per_output_token=0.2)
    assert Asked(scheduler).keys(rows) == pytest.approx([8 - 1 - 2, 3 - 1, 3 - 1])


def test_slack_counts_by_the_clock_where_no_seconds_are_given() -> None:
    rows = rows_of(1, prompt_tokens=100, predicted_output_tokens=11, ttft_slo_s=9, tpot_slo_s=1)
    scheduler = make_scheduler("slack", clock=LinearClock(0.1, 0.02, 0.3, 7.0))
    assert Asked(scheduler).keys(rows) == pytest.approx([9 + 10 - 100 * 0.02 - 10 * (0.1 + 0.3)])


def test_larry_prefers_short_prompts_until_a_long_one_has_waited_enough() -> None:
    """A prompt of a whole budget more is worth 2 s of waiting at these weights."""
    scheduler = make_scheduler("larry", w_wait=1.0, w_len=2.0, wait_s=1.0, token_budget=1000)
    assert order_of(scheduler, rows_of(2, prompt_tokens=[1100, 100], arrival_s=[0.0, 1.9])) == [1, 0]
    assert order_of(scheduler, rows_of(2, prompt_tokens=[1100, 100], arrival_s=[0.0, 2.1])) == [0, 1]
    by_arrival = make_scheduler("larry", w_len=0.0)
    assert order_of(by_arrival, rows_of(2, prompt_tokens=[1100, 100], arrival_s=[0.0, 0.1])) == [0, 1]


def test_larry_orders_as_with_waiting_times_at_any_moment() -> None:
    """Its key has arrivals in place of waits: the same order as that of the rule's own formula."""
    rng = np.random.default_rng(0)
    rows = rows_of(50, prompt_tokens=rng.integers(1, 4000, 50), arrival_s=rng.uniform(0, 5, 50))
    for now_s in (5.0, 80.0):
        wait = now_s - rows[:, 0]
        score = 0.7 * rows[:, 1] / 512 - 1.3 * wait / 0.5
        scheduler = make_scheduler("larry", w_wait=1.3, w_len=0.7, wait_s=0.5, token_budget=512)
        assert order_of(scheduler, rows) == np.argsort(score).tolist()


def test_multi_bin_counts_the_edges_below() -> None:
    rows = rows_of(5, predicted_output_tokens=[1, 10, 11, 99, 5000])
    scheduler = make_scheduler("multi_bin", num_bins=3, edges=[10, 99])
    assert Asked(scheduler).keys(rows).tolist() == [0, 0, 1, 1, 2]


def test_multi_bin_cuts_predictions_into_equal_shares() -> None:
    outputs = np.random.default_rng(1).integers(1, 1000, 1000)
    scheduler = make_scheduler("multi_bin", num_bins=8, predicted_outputs=outputs)
    bins = Asked(scheduler).keys(rows_of(1000, predicted_output_tokens=outputs))
    assert np.bincount(bins.astype(int)) == pytest.approx([125] * 8, abs=4)


def test_conservative_serves_by_arrival() -> None:
    scheduler = make_scheduler("conservative", reserved_output_share=0.5)
    assert order_of(scheduler, rows_of(3, arrival_s=[2, 0, 1], prompt_tokens=[1, 2, 3])) == [1, 2, 0]
    assert scheduler.engine == {"reserved_output_share": 0.5}


@pytest.mark.parametrize("edges", [[5.0], [5.0, 4.0, 9.0], [1.0, 2.0, float("nan")]])
def test_edges_that_do_not_fit_are_refused(edges: list[float]) -> None:
    with pytest.raises(InputError, match=r"scheduler.edges = .*: must be num_bins - 1 = 3 finite"):
        make_scheduler("multi_bin", edges=edges)
