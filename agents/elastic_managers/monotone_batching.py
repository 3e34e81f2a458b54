"""The same table where it matters, in O(n log n m^2), with the same bits.

A last batch costs (A + B s + C q) g with s, q and g sums over its requests, so its cost grows the faster
the more requests it has: for a <= b <= c <= d, cost(a, c) + cost(b, d) <= cost(a, d) + cost(b, c). With a
given number of instances for the last batch and for those before it, the best place to split therefore moves
only to the right as requests are added (Monge, Knuth, Yao), and the place for one number of requests bounds
those for others. Room only takes away splits on the left, the more of them the more requests, which changes
nothing.

Rounding could move a split between values that are equal but for it. So these values are a first pass; a
second looks at every last batch again, for those cells that the best ends of the table can have come from.
"""

import math

import numpy as np

from servegym.agents.elastic_managers.batching_table import Problem, Table, has_room, value_of
from servegym.costmodels.native.jit import kernel, routine

MARGIN = 1 + 1e-9
"""More than what rounding can make of a value, by far."""


@routine
def fill_what_matters(problem: Problem, table: Table, left: np.ndarray, right: np.ndarray) -> None:
    """Fills the cells from which the best in the last column comes. left, right: room, int64 (n + 1,)."""
    width = problem.num_requests + 1
    for used in range(1, problem.num_instances + 1):
        _fill_alone(problem, table.best, used)
        for count in range(1, used):
            _split(problem, table.best, used, count, left, right)
    least = math.inf
    for used in range(1, problem.num_instances + 1):
        least = min(least, table.best[used * width + problem.num_requests])
    table.counts[0] = 1
    for used in range(1, problem.num_instances + 1):
        cell = used * width + problem.num_requests
        if table.best[cell] < math.inf and table.best[cell] <= least * MARGIN:
            table.counts[cell] = 1
    for end in range(problem.num_requests, 0, -1):
        for used in range(1, problem.num_instances + 1):
            if table.counts[used * width + end]:
                _mark_before(problem, table, end, used)
    for end in range(1, width):
        for used in range(1, problem.num_instances + 1):
            if table.counts[used * width + end]:
                _choose(problem, table, end, used)


@kernel
def _fill_alone(problem: Problem, best: np.ndarray, used: int) -> None:
    """One batch on all instances."""
    for end in range(1, problem.num_requests + 1):
        if has_room(problem, end, used, 0, used):
            best[used * (problem.num_requests + 1) + end] = value_of(problem, best, end, used, 0, used)


@kernel
def _split(
    problem: Problem, best: np.ndarray, used: int, count: int, left: np.ndarray, right: np.ndarray
) -> None:
    """Improves a row by last batches on `count` instances, fewer than `used`.

    The middle number of requests first, then those in the middle of what it divides, and so on: the best
    split of each, `left = right`, bounds others, as do the bounds of one that has no split with room.
    """
    num = problem.num_requests
    row = used * (num + 1)
    reach = _reach(problem, used - count)
    stride = 1
    while 2 * stride <= num:
        stride *= 2
    while stride > 0:
        for end in range(stride, num + 1, 2 * stride):
            low = left[end - stride] if end > stride else 1
            high = min(end - 1, right[end + stride] if end + stride <= num else reach)
            least, split = math.inf, -1
            for start in range(high, low - 1, -1):
                if not has_room(problem, end, used, start, count):
                    break
                value = value_of(problem, best, end, used, start, count)
                if value < least:
                    least, split = value, start
            left[end], right[end] = low, high
            if split >= 0:
                left[end], right[end] = split, split
                best[row + end] = min(best[row + end], least)
        stride //= 2


@kernel
def _reach(problem: Problem, used: int) -> int:
    """How many requests could have room on the first instances."""
    low, high = 0, problem.num_requests
    while low < high:
        middle = (low + high + 1) // 2
        if problem.tokens[middle] <= problem.slots[used]:
            low = middle
        else:
            high = middle - 1
    return low


@kernel
def _mark_before(problem: Problem, table: Table, end: int, used: int) -> None:
    """Cells before a last batch whose value is the best of this cell, or equal but for rounding."""
    width = problem.num_requests + 1
    limit = table.best[used * width + end] * MARGIN
    for start in range(end - 1, -1, -1):
        if not has_room(problem, end, used, start, used):
            break
        for count in range(used, 0, -1):
            if not has_room(problem, end, used, start, count):
                break
            if value_of(problem, table.best, end, used, start, count) <= limit:
                table.counts[(used - count) * width + start] = 1


@kernel
def _choose(problem: Problem, table: Table, end: int, used: int) -> None:
    """The best last batch behind a marked cell, chosen as if all had been tried."""
    width = problem.num_requests + 1
    cell = used * width + end
    least = math.inf
    for start in range(end - 1, -1, -1):
        if not has_room(problem, end, used, start, used):
            break
        for count in range(used, 0, -1):
            if not has_room(problem, end, used, start, count):
                break
            if table.counts[(used - count) * width + start]:
                value = value_of(problem, table.best, end, used, start, count)
                if value < least:
                    least = value
                    table.sizes[cell] = end - start
                    table.counts[cell] = count
    table.best[cell] = least
