"""Sorting without memory of its own."""

import numpy as np

from servegym.costmodels.native.jit import routine


@routine
def sort_falling(keys: np.ndarray, count: int) -> None:
    """Sorts the first `count` keys in place, the largest first (Shell's sort)."""
    gap = 1
    while 3 * gap < count:
        gap = 3 * gap + 1
    while gap > 0:
        for at in range(gap, count):
            key = keys[at]
            place = at
            while place >= gap and keys[place - gap] < key:
                keys[place] = keys[place - gap]
                place -= gap
            keys[place] = key
        gap //= 3
