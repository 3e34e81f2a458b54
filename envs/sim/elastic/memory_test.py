"""LightLLM's memory test: how many KV tokens requests will hold at most, if each ends when it is known to.

A forecast is a part of an integer array: a number of requests, then five numbers of each, in order of
falling `rest` (iterations to its end). Asking what one more request would make of it takes O(log n), adding
one O(n)."""

import numpy as np

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.elastic.groups import tokens_out
from servegym.envs.sim.elastic.sorting import sort_falling
from servegym.envs.sim.elastic.state import FleetState

(
    _REST,
    _HELD,
    _AHEAD,  # sum of `held` of those ahead
    _PEAK_AHEAD,  # most tokens when one of those ahead ends
    _PEAK_BEHIND,  # when it or one behind ends, if there were one more request with no tokens ahead
) = range(5)
_COLUMNS = 5

_HELD_BITS = 31

FORECAST_ROWS = _COLUMNS + 1
"""Request rows that a forecast takes."""


@kernel
def held_waiting(state: FleetState, request: int) -> int:
    """Tokens that a waiting request holds once it has been prefilled, and the next one."""
    return int(state.prompt[request] + state.produced[request]) + 1


@kernel
def rest_waiting(state: FleetState, request: int) -> int:
    """Iterations that a waiting request goes on after that."""
    return max(0, int(state.output[request] - state.produced[request]) - 2)


@routine
def forecast_group(state: FleetState, forecast: np.ndarray, group: int) -> None:
    """Puts the requests of a group into a forecast; `sort_forecast` must follow."""
    count = forecast[0]
    for at in range(state.size[group]):
        request = state.requests[group, at]
        out = tokens_out(state, request)
        rest = max(0, state.output[request] - out - 1)
        forecast[1 + count] = (rest << _HELD_BITS) | (state.prompt[request] + out)
        count += 1
    forecast[0] = count


@routine
def sort_forecast(forecast: np.ndarray) -> None:
    """Makes a forecast of what `forecast_group` has put there."""
    count = forecast[0]
    sort_falling(forecast[1:], count)
    for at in range(count - 1, -1, -1):
        key = forecast[1 + at]
        row = 1 + _COLUMNS * at
        forecast[row + _REST] = key >> _HELD_BITS
        forecast[row + _HELD] = key & ((1 << _HELD_BITS) - 1)
    _sum_up(forecast)


@kernel
def peak_with(forecast: np.ndarray, held: int, rest: int) -> int:
    """Most tokens at once, with one more request."""
    place = _place_of(forecast, rest)
    row = 1 + _COLUMNS * place
    own = rest * (place + 1) + forecast[row + _AHEAD] + held
    return int(max(own, forecast[row + _PEAK_AHEAD], forecast[row + _PEAK_BEHIND] + held))


@routine
def join_forecast(forecast: np.ndarray, held: int, rest: int) -> None:
    """One more request."""
    place = _place_of(forecast, rest)
    for at in range(forecast[0] - 1, place - 1, -1):
        row = 1 + _COLUMNS * at
        forecast[row + _COLUMNS + _REST] = forecast[row + _REST]
        forecast[row + _COLUMNS + _HELD] = forecast[row + _HELD]
    row = 1 + _COLUMNS * place
    forecast[row + _REST] = rest
    forecast[row + _HELD] = held
    forecast[0] += 1
    _sum_up(forecast)


@routine
def copy_forecast(forecast: np.ndarray, target: np.ndarray) -> None:
    """The same requests in another place."""
    for at in range(1 + _COLUMNS * (forecast[0] + 1)):
        target[at] = forecast[at]


@kernel
def _place_of(forecast: np.ndarray, rest: int) -> int:
    """How many requests have no smaller `rest`."""
    low, high = 0, forecast[0]
    while low < high:
        middle = (low + high) // 2
        if forecast[1 + _COLUMNS * middle + _REST] >= rest:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _sum_up(forecast: np.ndarray) -> None:
    count = forecast[0]
    ahead, peak = 0, 0
    for at in range(count + 1):
        row = 1 + _COLUMNS * at
        forecast[row + _AHEAD] = ahead
        forecast[row + _PEAK_AHEAD] = peak
        if at < count:
            ahead += forecast[row + _HELD]
            peak = max(peak, forecast[row + _REST] * (at + 1) + ahead)
    peak = -(2**62)
    for at in range(count, -1, -1):
        row = 1 + _COLUMNS * at
        if at < count:
            own = forecast[row + _REST] * (at + 2) + forecast[row + _AHEAD] + forecast[row + _HELD]
            peak = max(peak, own)
        forecast[row + _PEAK_BEHIND] = peak
