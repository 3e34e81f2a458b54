"""The table of LoongServe's dynamic program, and filling it by trying every last batch: O(n^2 m^2)."""

import math
from typing import NamedTuple

import numpy as np

from servegym.costmodels.elastic.cost import ElasticCost, prefill_seconds
from servegym.costmodels.native.jit import kernel, routine


class Problem(NamedTuple):
    """n requests of falling length on m instances: prefix sums, over requests float64 (n + 1,)."""

    cost: ElasticCost
    instances_per_node: int
    num_requests: int
    num_instances: int
    tokens: np.ndarray  # whole numbers, exact in float64, like their squares
    squares: np.ndarray
    gains: np.ndarray  # of 1 / length
    slots: np.ndarray  # int64 (m + 1,) of free tokens


class Table(NamedTuple):
    """For the first i requests on all of the first j instances, in cell `j (n + 1) + i`."""

    best: np.ndarray  # float64, the least sum over batches of seconds times gains; inf without room
    sizes: np.ndarray  # int64, requests of the last batch
    counts: np.ndarray  # int64, its instances


@kernel
def seconds_on(
    cost: ElasticCost, instances_per_node: int, instances: int, sum_tokens: float, sum_squares: float
) -> float:
    """Of a prefill on so many instances, which cross nodes where one cannot hold them; inf for none."""
    if instances == 0:
        return math.inf
    crosses = 1 if instances > instances_per_node else 0
    return prefill_seconds(cost, crosses, instances, sum_tokens, sum_squares)


@kernel
def value_of(problem: Problem, best: np.ndarray, end: int, used: int, start: int, count: int) -> float:
    """Of the first `end` requests on `used` instances, with those from `start` on on the last `count`."""
    seconds = seconds_on(
        problem.cost,
        problem.instances_per_node,
        count,
        problem.tokens[end] - problem.tokens[start],
        problem.squares[end] - problem.squares[start],
    )
    before = best[(used - count) * (problem.num_requests + 1) + start]
    return float(seconds * (problem.gains[end] - problem.gains[start]) + before)


@kernel
def has_room(problem: Problem, end: int, used: int, start: int, count: int) -> bool:
    """Whether that last batch fits on its instances."""
    tokens = problem.tokens[end] - problem.tokens[start]
    return bool(tokens <= problem.slots[used] - problem.slots[used - count])


@kernel
def fill_whole(problem: Problem, table: Table) -> None:
    """All requests in one batch, on each number of instances: what the authors' code finds."""
    end = problem.num_requests
    for used in range(1, problem.num_instances + 1):
        if has_room(problem, end, used, 0, used):
            cell = used * (end + 1) + end
            table.best[cell] = value_of(problem, table.best, end, used, 0, used)
            table.sizes[cell] = end
            table.counts[cell] = used


@routine
def fill_exhaustively(problem: Problem, table: Table) -> None:
    """Of equal values the smaller last batch, then the one on more instances."""
    width = problem.num_requests + 1
    for used in range(1, problem.num_instances + 1):
        for end in range(1, width):
            cell = used * width + end
            for start in range(end - 1, -1, -1):
                if not has_room(problem, end, used, start, used):
                    break
                for count in range(used, 0, -1):
                    if not has_room(problem, end, used, start, count):
                        break
                    value = value_of(problem, table.best, end, used, start, count)
                    if value < table.best[cell]:
                        table.best[cell] = value
                        table.sizes[cell] = end - start
                        table.counts[cell] = count
