"""LightLLM's memory test: what one more request makes of the forecast, against the formula as it stands."""

import numpy as np

from servegym.costmodels.native.jit import jit
from servegym.envs.sim.elastic.memory_test import (
    FORECAST_ROWS,
    copy_forecast,
    join_forecast,
    peak_with,
    sort_forecast,
)


@jit
def _grow(forecast, more, copy):
    """Peaks with each of more requests, which then joins; `copy` follows one behind."""
    peaks = np.zeros(len(more), np.int64)
    sort_forecast(forecast)
    for at in range(len(more)):
        peaks[at] = peak_with(forecast, more[at, 0], more[at, 1])
        copy_forecast(forecast, copy)
        join_forecast(forecast, more[at, 0], more[at, 1])
    return peaks


def largest(requests: list[tuple[int, int]]) -> int:
    """Of `rest * i +` what is held up to the i-th, in order of falling `rest`."""
    held = peak = 0
    for rank, (own, rest) in enumerate(sorted(requests, key=lambda each: -each[1]), 1):
        held += own
        peak = max(peak, rest * rank + held)
    return peak


def test_by_hand() -> None:
    """5 held for 4 more and 2 for 10 more: 12 when the long one ends alone, 8 + 7 when the short one does."""
    assert largest([(5, 4), (2, 10)]) == 15
    forecast = np.zeros(FORECAST_ROWS * 4, np.int64)
    assert _grow(forecast, np.array([[5, 4], [2, 10]]), forecast.copy()).tolist() == [9, 15]


def test_any_requests_in_any_order() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        count = int(rng.integers(0, 12))
        requests = [(int(rng.integers(1, 30)), int(rng.integers(0, 20))) for _ in range(count)]
        forecast = np.zeros(FORECAST_ROWS * 20, np.int64)
        forecast[0] = count
        forecast[1 : 1 + count] = [(rest << 31) | held for held, rest in requests]
        more = rng.integers([1, 0], [30, 20], (4, 2))
        copy = forecast.copy()
        peaks = _grow(forecast, more, copy)
        for (held, rest), peak in zip(more.tolist(), peaks, strict=True):
            requests.append((held, rest))
            assert peak == largest(requests)
        assert copy[0] == count + 3


def test_many_equal_requests() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        count = int(rng.integers(1, 40))
        requests = np.column_stack([rng.integers(1, 1000, count), rng.integers(0, 30, count)])
        forecast = np.zeros(FORECAST_ROWS * (count + 2), np.int64)
        peaks = _grow(forecast, requests, forecast.copy()).tolist()
        pairs = [(int(held), int(rest)) for held, rest in requests]
        assert peaks == [largest(pairs[: at + 1]) for at in range(count)]
