"""Summaries of results worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from servegym.envs.metrics import SloLimits, attains_slo, percentile, summarise
from servegym.envs.sim.llm.simulate import Results


def test_summary_by_hand() -> None:
    """Two requests: TTFT 1 and 3 s, latency 5 and 3 s; only the first has a TPOT, 4 s over 4 gaps."""
    results = Results.all_finished(
        arrival_s=np.array([0.0, 1.0]),
        prompt_tokens=np.array([10, 10]),
        output_tokens=np.array([5, 1]),
        replica=np.array([0, 1]),
        scheduled_s=np.array([0.5, 2.0]),
        first_token_s=np.array([1.0, 4.0]),
        finish_s=np.array([5.0, 4.0]),
        preemptions=np.array([1, 0]),
        hit_tokens=np.array([0, 0]),
    )
    summary = summarise(results)
    assert summary["num_requests"] == 2
    assert summary["makespan_s"] == 5.0
    assert summary["throughput_rps"] == pytest.approx(0.4)
    assert summary["output_tokens_per_s"] == pytest.approx(6 / 5)
    assert summary["preemptions_per_request"] == 0.5
    assert summary["mean_ttft_s"] == summary["p50_ttft_s"] == 2.0
    assert summary["p99_ttft_s"] == pytest.approx(1 + 0.99 * 2)
    assert summary["mean_tpot_s"] == 1.0
    assert summary["mean_latency_s"] == 4.0


def test_percentiles_are_those_of_numpy() -> None:
    """Of any number of values, at the ends and between."""
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 1000):
        ordered = np.sort(rng.exponential(size=count))
        for percent in (0, 1, 50, 99, 99.9, 100):
            assert percentile(ordered, percent) == pytest.approx(np.percentile(ordered, percent), rel=1e-12)


def of_requests(**columns: list[float]) -> Results:
    """Results with these columns; the others are those of requests that finished at once."""
    count = len(columns["arrival_s"])
    counts = {"prompt_tokens": 1, "output_tokens": 1, "replica": 0, "preemptions": 0, "hit_tokens": 0}
    same = {name: np.full(count, value) for name, value in counts.items()}
    times = dict.fromkeys(("scheduled_s", "first_token_s", "finish_s"), np.array(columns["arrival_s"]))
    plain = Results.all_finished(**same | times | {"arrival_s": np.array(columns["arrival_s"])})
    return replace(plain, **{name: np.array(values) for name, values in columns.items()})


def test_what_cannot_be_measured_is_nan() -> None:
    """Nobody with a second token: no TPOT, everything else as ever."""
    summary = summarise(of_requests(arrival_s=[1.0, 1.0], first_token_s=[2.0, 2.0], finish_s=[2.0, 2.0]))
    assert np.isnan(summary["mean_tpot_s"]) and np.isnan(summary["p99_tpot_s"])
    assert summary["mean_ttft_s"] == summary["p99_latency_s"] == 1.0


def test_those_that_do_not_finish_are_counted_and_in_no_mean() -> None:
    """One of each kind: only the first has times that count, and the clock runs until the cancellation."""
    results = of_requests(
        arrival_s=[0.0, 1.0, np.nan],
        first_token_s=[2.0, 9.0, np.nan],
        finish_s=[4.0, np.nan, np.nan],
        output_tokens=[3, 100, 7],
        outcome=[0, 1, 2],
        cancelled_s=[np.nan, 10.0, np.nan],
        retries=[2, 0, 1],
    )
    summary = summarise(results)
    counts = [summary[name] for name in ("num_requests", "num_finished", "num_cancelled", "num_lost")]
    assert counts == [3, 1, 1, 1]
    assert (
        summary["mean_ttft_s"] == 2.0 and summary["mean_latency_s"] == 4.0 and summary["mean_tpot_s"] == 1.0
    )
    assert summary["makespan_s"] == 10.0
    assert summary["throughput_rps"] == pytest.approx(0.1)
    assert summary["output_tokens_per_s"] == pytest.approx(0.3)
    assert summary["retries_per_request"] == 1.0


def test_where_nobody_finishes_there_is_nothing_to_measure() -> None:
    nobody = of_requests(arrival_s=[0.0], finish_s=[np.nan], outcome=[2])
    summary = summarise(nobody, SloLimits(1.0, 1.0))
    assert summary["num_lost"] == 1 and summary["slo_attainment"] == 0
    assert np.isnan(summary["mean_latency_s"]) and np.isnan(summary["throughput_rps"])


def test_slo_by_hand() -> None:
    """In time; first token too late; too slow; one token, in time; in time but cancelled. 4 s in all."""
    results = of_requests(
        arrival_s=[0.0, 0.0, 0.0, 0.0, 0.0],
        first_token_s=[1.0, 1.5, 1.0, 1.0, 1.0],
        finish_s=[2.0, 2.0, 4.0, 1.0, np.nan],
        output_tokens=[3, 3, 3, 1, 3],
        outcome=[0, 0, 0, 0, 1],
        cancelled_s=[np.nan, np.nan, np.nan, np.nan, 2.0],
    )
    assert attains_slo(results, SloLimits(1.0, 0.5)).tolist() == [True, False, False, True, False]
    summary = summarise(results, SloLimits(1.0, 0.5))
    assert summary["slo_attainment"] == pytest.approx(2 / 5)
    assert summary["goodput_rps"] == pytest.approx(2 / 4)
    each = SloLimits(np.array([0.5, 2.0, 1.0, np.inf, 1.0]), np.array([0.5, 0.5, np.inf, np.inf, 0.5]))
    assert attains_slo(results, each).tolist() == [False, True, True, True, False]
    assert "goodput_rps" not in summarise(results)
