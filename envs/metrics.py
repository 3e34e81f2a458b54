"""What users of a serving system feel, from the results of a simulation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from servegym.envs.sim.llm.simulate import Results

Seconds = npt.NDArray[np.float64]


def ttft_s(results: Results) -> Seconds:
    """Time to first token of each request, seconds."""
    return results.first_token_s - results.arrival_s


def latency_s(results: Results) -> Seconds:
    """End-to-end latency of each request, seconds."""
    return results.finish_s - results.arrival_s


def tpot_s(results: Results) -> Seconds:
    """Time per output token after the first, seconds; NaN for requests with one output token."""
    gaps = results.output_tokens - 1.0
    gaps[gaps == 0] = np.nan
    return (results.finish_s - results.first_token_s) / gaps


SUMMARIES: dict[str, tuple[Callable[[Results], Seconds], Callable[[Seconds], Any]]] = {
    "mean_ttft_s": (ttft_s, np.nanmean),
    "p50_ttft_s": (ttft_s, lambda values: np.nanpercentile(values, 50)),
    "p99_ttft_s": (ttft_s, lambda values: np.nanpercentile(values, 99)),
    "mean_tpot_s": (tpot_s, np.nanmean),
    "p99_tpot_s": (tpot_s, lambda values: np.nanpercentile(values, 99)),
    "mean_latency_s": (latency_s, np.nanmean),
    "p99_latency_s": (latency_s, lambda values: np.nanpercentile(values, 99)),
}
"""Name of each summary of per-request times: what is measured, and how it is summed up."""


def summarise(results: Results) -> dict[str, float]:
    """Every entry of SUMMARIES, plus counts and rates over the time from first arrival to last finish."""
    summary = {name: float(sum_up(measure(results))) for name, (measure, sum_up) in SUMMARIES.items()}
    makespan_s = float(results.finish_s.max() - results.arrival_s.min())
    return {
        "num_requests": float(len(results.arrival_s)),
        "makespan_s": makespan_s,
        "throughput_rps": len(results.arrival_s) / makespan_s,
        "output_tokens_per_s": float(results.output_tokens.sum()) / makespan_s,
        "preemptions_per_request": float(results.preemptions.mean()),
        **summary,
    }
