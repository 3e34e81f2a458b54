"""What users of a serving system feel, from the results of a simulation."""

import math
from collections.abc import Callable

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


MEASURES: dict[str, tuple[Callable[[Results], Seconds], tuple[int, ...]]] = {
    "ttft_s": (ttft_s, (50, 99)),
    "tpot_s": (tpot_s, (99,)),
    "latency_s": (latency_s, (99,)),
}
"""What is measured of each request, and which percentiles of it a summary has beside the mean."""


def percentile(ordered: Seconds, percent: float) -> float:
    """Of ascending values, interpolated linearly between the two nearest; NaN of none.

    As np.percentile by default, without its checks, which take longer than sorting an episode.
    """
    if len(ordered) == 0:
        return math.nan
    below, weight = divmod(percent / 100 * (len(ordered) - 1), 1)
    lower, upper = ordered[int(below)], ordered[min(int(below) + 1, len(ordered) - 1)]
    return float(lower + weight * (upper - lower))


def summarise(results: Results) -> dict[str, float]:
    """Mean and percentiles of MEASURES, counts, and rates over the time from first arrival to last finish.

    Requests of which something cannot be measured do not count in it; NaN where none can.
    """
    summary = {}
    for name, (measure, percents) in MEASURES.items():
        ordered = measure(results)
        ordered.sort()  # NaN to the end
        ordered = ordered[: len(ordered) - np.count_nonzero(np.isnan(ordered))]
        summary[f"mean_{name}"] = float(ordered.sum() / len(ordered)) if len(ordered) else math.nan
        for percent in percents:
            summary[f"p{percent}_{name}"] = percentile(ordered, percent)
    makespan_s = float(results.finish_s.max() - results.arrival_s.min())
    return {
        "num_requests": float(len(results.arrival_s)),
        "makespan_s": makespan_s,
        "throughput_rps": len(results.arrival_s) / makespan_s,
        "output_tokens_per_s": float(results.output_tokens.sum()) / makespan_s,
        "preemptions_per_request": float(results.preemptions.mean()),
        **summary,
    }
