"""What users of a serving system feel, from the results of a simulation."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from servegym.envs.sim.llm.simulate import OUTCOMES, Results

Seconds = npt.NDArray[np.float64]


def ttft_s(results: Results) -> Seconds:
    """Time to first token of each request, seconds; NaN where there was none."""
    return results.first_token_s - results.arrival_s


def latency_s(results: Results) -> Seconds:
    """End-to-end latency of each request, seconds; NaN for those that did not finish."""
    return results.finish_s - results.arrival_s


def tpot_s(results: Results) -> Seconds:
    """Time per output token after the first, seconds; NaN for one output token, and without a finish."""
    gaps = results.output_tokens - 1.0
    gaps[gaps == 0] = np.nan
    return (results.finish_s - results.first_token_s) / gaps


MEASURES: dict[str, tuple[Callable[[Results], Seconds], tuple[int, ...]]] = {
    "ttft_s": (ttft_s, (50, 99)),
    "tpot_s": (tpot_s, (99,)),
    "latency_s": (latency_s, (99,)),
}
"""What is measured of each request, and which percentiles of it a summary has beside the mean."""


class SloLimits(NamedTuple):
    """What requests were promised, seconds: one number for all or float64 (N,); infinity promises nothing."""

    ttft_s: Seconds | float
    tpot_s: Seconds | float


def attains_slo(results: Results, limits: SloLimits) -> npt.NDArray[np.bool_]:
    """bool (N,): which requests finished within both limits; with one output token only TTFT counts."""
    gaps = results.output_tokens - 1
    in_time = ttft_s(results) <= limits.ttft_s
    at_pace = results.finish_s - results.first_token_s <= limits.tpot_s * np.maximum(gaps, 1)
    attained: npt.NDArray[np.bool_] = results.finished & in_time & ((gaps == 0) | at_pace)
    return attained


def percentile(ordered: Seconds, percent: float) -> float:
    """Of ascending values, interpolated linearly between the two nearest; NaN of none.

    As np.percentile by default, without its checks, which take longer than sorting an episode.
    """
    if len(ordered) == 0:
        return math.nan
    below, weight = divmod(percent / 100 * (len(ordered) - 1), 1)
    lower, upper = ordered[int(below)], ordered[min(int(below) + 1, len(ordered) - 1)]
    return float(lower + weight * (upper - lower))


def summarise(results: Results, limits: SloLimits | None = None) -> dict[str, float]:
    """Counts and rates of N requests, and mean and percentiles of MEASURES over those that finished.

    Rates are over the time from the first arrival to the last request that finished or was cancelled, of
    requests that finished. With limits also slo_attainment, the share of all requests that finished within
    them, and goodput_rps, how many of these a second.
    Requests of which something cannot be measured do not count in it; NaN where none can.
    """
    num_requests = len(results.outcome)
    num_finished, num_cancelled, num_lost = np.bincount(results.outcome, minlength=len(OUTCOMES)).tolist()
    all_finished = num_finished == num_requests
    finished = slice(None) if all_finished else results.finished
    summary = {}
    for name, (measure, percents) in MEASURES.items():
        ordered = measure(results)[finished]
        ordered.sort()  # NaN to the end
        ordered = ordered[: len(ordered) - np.count_nonzero(np.isnan(ordered))]
        summary[f"mean_{name}"] = float(ordered.sum() / len(ordered)) if len(ordered) else math.nan
        for percent in percents:
            summary[f"p{percent}_{name}"] = percentile(ordered, percent)
    makespan_s = _makespan_s(results, all_finished)
    summary = {
        "num_requests": float(num_requests),
        "num_finished": float(num_finished),
        "num_cancelled": float(num_cancelled),
        "num_lost": float(num_lost),
        "makespan_s": makespan_s,
        "throughput_rps": num_finished / makespan_s,
        "output_tokens_per_s": float(results.output_tokens[finished].sum()) / makespan_s,
        "preemptions_per_request": float(results.preemptions.mean()),
        "retries_per_request": float(results.retries.mean()),
        "migrations_per_request": float(results.migrations.mean()),
        **summary,
    }
    if limits is not None:
        attained = np.count_nonzero(attains_slo(results, limits))
        summary |= {"slo_attainment": attained / num_requests, "goodput_rps": attained / makespan_s}
    return summary


def _makespan_s(results: Results, all_finished: bool) -> float:
    """From the first arrival to the last end that has a time; NaN where none has."""
    if all_finished:
        return float(results.finish_s.max() - results.arrival_s.min())
    last_s = np.fmax.reduce(np.fmax(results.finish_s, results.cancelled_s))
    return float(last_s - np.fmin.reduce(results.arrival_s))
