"""Summaries of results worked out by hand."""

import numpy as np
import pytest

from servegym.envs.metrics import percentile, summarise
from servegym.envs.sim.llm.simulate import Results


def test_summary_by_hand() -> None:
    """Two requests: TTFT 1 and 3 s, latency 5 and 3 s; only the first has a TPOT, 4 s over 4 gaps."""
    results = Results(
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


def test_what_cannot_be_measured_is_nan() -> None:
    """Nobody with a second token: no TPOT, everything else as ever."""
    results = Results(*(np.array([value, value]) for value in (1.0, 5, 1, 0, 1.0, 2.0, 2.0, 0, 0)))
    summary = summarise(results)
    assert np.isnan(summary["mean_tpot_s"]) and np.isnan(summary["p99_tpot_s"])
    assert summary["mean_ttft_s"] == summary["p99_latency_s"] == 1.0
