"""LightLLM's memory test against its formula."""

import numpy as np

from servegym.costmodels.native.jit import jit
from servegym.envs.sim.elastic.memory_test import FORECAST_ROWS, join_forecast, peak_with, sort_forecast


@jit
def _peaks(held, rest, forecast):
    peaks = np.zeros(held.size, np.int64)
    forecast[0] = 0
    sort_forecast(forecast)
    for at in range(held.size):
        peaks[at] = peak_with(forecast, held[at], rest[at])
        join_forecast(forecast, held[at], rest[at])
    return peaks


def naive(held: np.ndarray, rest: np.ndarray) -> int:
    """The largest, over the `i`-th in falling order of `rest`, of `rest * i` and what they hold up to it."""
    order = np.argsort(-rest, kind="stable")
    return int((rest[order] * np.arange(1, len(rest) + 1) + np.cumsum(held[order])).max())


def test_the_peak_with_one_more_request_is_that_of_the_formula() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        count = int(rng.integers(1, 40))
        held, rest = rng.integers(1, 1000, count), rng.integers(0, 30, count)  # many are equal
        peaks = _peaks(held, rest, np.zeros(FORECAST_ROWS * (count + 2), np.int64))
        assert peaks.tolist() == [naive(held[: at + 1], rest[: at + 1]) for at in range(count)]
