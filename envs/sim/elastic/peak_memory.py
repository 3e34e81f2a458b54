"""How many waiting requests can be admitted: the memory test of LightLLM.

docs/elastic_sequence_parallelism.md, "Memory test". Whoever has most output left is served longest; in
falling order of that, when the `i`-th ends there are `rest * i` KV tokens and what the first `i` hold now.
"""

import numpy as np

from servegym.costmodels.native.jit import kernel, routine
from servegym.envs.sim.elastic.groups import tokens_out
from servegym.envs.sim.elastic.state import FleetState

_SHIFT = 32
"""A request's output left and what it holds stand in one number, which is sorted."""


@routine
def num_fitting(
    state: FleetState,
    requests: np.ndarray,
    count: int,
    capacity: int,
    keys: np.ndarray,
    sorted_keys: np.ndarray,
) -> int:
    """How many of the first `count` of waiting `requests` pass the test together with all in groups.

    keys, sorted_keys: int64, room for as many numbers as requests are in groups, and `count` more.
    """
    in_groups, at_end = _keys_of_groups(state, keys)
    fitting = 0  # for certain: there is room even if nobody ended
    while fitting < count:
        at_end += _at_end(_key_of_waiting(state, requests[fitting]))
        if at_end > capacity:
            break
        fitting += 1
    too_many = count + 1
    while fitting + 1 < too_many:
        half = (fitting + too_many) // 2
        for at in range(in_groups):
            sorted_keys[at] = keys[at]
        for at in range(half):
            sorted_keys[in_groups + at] = _key_of_waiting(state, requests[at])
        if _peak(sorted_keys, in_groups + half) <= capacity:
            fitting = half
        else:
            too_many = half
    return fitting


@kernel
def _keys_of_groups(state: FleetState, keys: np.ndarray) -> tuple[int, int]:
    """Of all requests in groups; how many, and what they would hold if all were there at their ends."""
    count, at_end = 0, 0
    for group in range(state.size.size):
        for at in range(state.size[group]):
            request = state.requests[group, at]
            out = tokens_out(state, request)
            left = max(0, state.output[request] - out - 1)
            keys[count] = (left << _SHIFT) | (state.prompt[request] + out)
            at_end += _at_end(keys[count])
            count += 1
    return count, at_end


@kernel
def _key_of_waiting(state: FleetState, request: int) -> int:
    out = state.produced[request]
    left = max(0, state.output[request] - out - 2)
    return (left << _SHIFT) | (state.prompt[request] + out + 1)


@kernel
def _at_end(key: int) -> int:
    return (key >> _SHIFT) + (key & 0xFFFFFFFF)


@routine
def _peak(keys: np.ndarray, count: int) -> int:
    """The most KV tokens that requests will hold; sorts them, most output left first [Shell's sort]."""
    gap = 1
    while gap < count:
        gap = 3 * gap + 1
    while gap > 1:
        gap //= 3
        for start in range(gap, count):
            key, at = keys[start], start
            while at >= gap and keys[at - gap] < key:
                keys[at] = keys[at - gap]
                at -= gap
            keys[at] = key
    most, held = 0, 0
    for at in range(count):
        held += keys[at] & 0xFFFFFFFF
        most = max(most, (keys[at] >> _SHIFT) * (at + 1) + held)
    return most
