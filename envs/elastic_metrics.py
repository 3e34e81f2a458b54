"""What is said of a run on an elastic fleet: normalised latencies, and who was served in time.

Definitions are those of LoongServe's artifact (`metrics.py`, `structs.py`, and the script that plots Fig. 10
to 12). There a request that does not end is in no figure; here it is never in time, and keeps no line.
"""

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from servegym.envs.elastic_scenario.scenario import ElasticScenario
from servegym.envs.metrics import percentile

Floats = npt.NDArray[np.float64]

LINES = ("total_s", "input_s", "output_s")
"""Latencies normalised by tokens, as `scenario.slo` has lines for their means."""


class Served(Protocol):
    """What happened to N requests, whoever served them. Times are seconds, nan for what never came."""

    @property
    def arrival_s(self) -> np.ndarray:
        """(N,) float64."""

    @property
    def first_token_s(self) -> np.ndarray:
        """(N,) float64."""

    @property
    def finish_s(self) -> np.ndarray:
        """(N,) float64."""

    @property
    def prompt_tokens(self) -> np.ndarray:
        """(N,) integers."""

    @property
    def output_tokens(self) -> np.ndarray:
        """(N,) integers."""

    @property
    def rejected(self) -> np.ndarray:
        """(N,) bool."""

    @property
    def duration_s(self) -> float:
        """To the last event."""


def tpot_s(served: Served) -> Floats:
    """(N,) seconds a token after the first; 0 with one output token; nan where the request did not end."""
    decoding_s = served.finish_s - served.first_token_s
    return np.asarray(decoding_s / np.maximum(served.output_tokens - 1, 1))


def normalised_latencies(served: Served) -> dict[str, Floats]:
    """Of each request (N,) seconds a token: latency over prompt and output, TTFT over prompt, TPOT.

    nan where the request did not end.
    """
    ended = np.where(np.isnan(served.finish_s), np.nan, 0.0)
    return {
        "total_s": (served.finish_s - served.arrival_s) / (served.prompt_tokens + served.output_tokens),
        "input_s": (served.first_token_s - served.arrival_s) / served.prompt_tokens + ended,
        "output_s": tpot_s(served),
    }


def in_time(served: Served, scenario: ElasticScenario) -> npt.NDArray[np.bool_]:
    """(N,) whether requests ended with TTFT and TPOT within the scenario's limits (Fig. 12)."""
    ttft_s = served.first_token_s - served.arrival_s
    within = (ttft_s <= scenario.ttft_limit_s(served.prompt_tokens)) & (tpot_s(served) <= scenario.slo.tpot_s)
    return np.asarray(within)


def of_lines(served: Served, scenario: ElasticScenario) -> dict[str, float]:
    """Mean normalised latencies over the lines that the scenario has: at most 1 keeps the line.

    inf where any request did not end, 0 without requests.
    """
    latencies = normalised_latencies(served)
    lines = {name: getattr(scenario.slo, name) for name in LINES}
    return {name: _mean(latencies[name]) / line for name, line in lines.items() if line is not None}


def summarise_elastic(served: Served, scenario: ElasticScenario) -> dict[str, float]:
    """Counts of requests, the share in time, rates and latencies.

    mean_total_s, mean_input_s, mean_output_s: normalised latencies; these, TTFT and latency are of the
    requests that ended, nan without any. over_line_*: see `of_lines`.
    """
    ended = ~np.isnan(served.finish_s)
    num_rejected = int(served.rejected.sum())
    good = in_time(served, scenario)
    ttft_s = np.sort((served.first_token_s - served.arrival_s)[ended])
    latency_s = np.sort((served.finish_s - served.arrival_s)[ended])
    duration_s = served.duration_s
    return {
        "num_requests": float(len(ended)),
        "num_finished": float(ended.sum()),
        "num_rejected": float(num_rejected),
        "num_unserved": float(len(ended) - ended.sum() - num_rejected),
        "attainment": float(good.mean()) if len(good) else 1.0,
        "good_rps": float(good.sum() / duration_s) if duration_s > 0 else 0.0,
        **{
            f"mean_{name}": _mean(values[ended]) if ended.any() else math.nan
            for name, values in normalised_latencies(served).items()
        },
        **{
            f"over_line_{name.removesuffix('_s')}": value
            for name, value in of_lines(served, scenario).items()
        },
        "mean_ttft_s": _mean(ttft_s) if len(ttft_s) else math.nan,
        "p99_ttft_s": percentile(ttft_s, 99),
        "mean_latency_s": _mean(latency_s) if len(latency_s) else math.nan,
        "p99_latency_s": percentile(latency_s, 99),
        "duration_s": duration_s,
    }


def _mean(values: Floats) -> float:
    """inf with a nan among them, 0 of nothing."""
    if not len(values):
        return 0.0
    mean = float(values.mean())
    return math.inf if math.isnan(mean) else mean
