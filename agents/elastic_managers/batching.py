"""Which requests are prefilled together, on how many instances: LoongServe's dynamic program.

Wu et al. (SOSP 2024), section 5, and `longserve_c_scheduler/src/main.cpp` of their code. Of requests in
order of falling length and instances in order of rising use, `f[i, j]` is the least sum of input latencies a
token, over batches, for the first `i` requests on the first `j` instances."""

import math

import numpy as np

from servegym.costmodels.elastic.cost import ElasticCost, prefill_seconds
from servegym.costmodels.native.jit import kernel, routine

FIRST_REQUEST, NUM_REQUESTS, FIRST_INSTANCE, NUM_INSTANCES = range(4)
"""What is said of a batch: consecutive requests and instances of their lists."""
BATCH_COLUMNS = 4


@kernel
def seconds_on(
    cost: ElasticCost, instances_per_node: int, instances: int, sum_tokens: float, sum_squares: float
) -> float:
    """Of a prefill on so many instances, which cross nodes where one cannot hold them; inf for none."""
    if instances == 0:
        return math.inf
    crosses = 1 if instances > instances_per_node else 0
    return prefill_seconds(cost, crosses, instances, sum_tokens, sum_squares)


def reals_for_batching(max_requests: int, num_instances: int) -> int:
    """How many float64 `find_batches` needs to work."""
    return (num_instances + 1 + 3) * (max_requests + 1)


def integers_for_batching(max_requests: int, num_instances: int) -> int:
    """How many int64 it needs."""
    return 2 * (num_instances + 1) * (max_requests + 1) + num_instances + 1


@routine
def find_batches(
    cost: ElasticCost,
    instances_per_node: int,
    lengths: np.ndarray,
    num_requests: int,
    free: np.ndarray,
    num_instances: int,
    pruned: bool,
    reals: np.ndarray,
    integers: np.ndarray,
    batches: np.ndarray,
) -> int:
    """The best batches of the first of `lengths`, which fall, on instances with `free` tokens.

    Fills `batches`, int64 (num_instances * BATCH_COLUMNS,), from the last batch to the first; how many, 0
    where there is no room. `pruned` as in the authors' code, which need not find the best.
    """
    width, table = num_requests + 1, (num_instances + 1) * (num_requests + 1)
    tokens, squares, gains = reals[table:], reals[table + width :], reals[table + 2 * width :]
    sizes, counts, slots = integers, integers[table:], integers[2 * table :]
    _sum_up(lengths, num_requests, free, num_instances, tokens, squares, gains, slots)
    for at in range(table):
        reals[at] = math.inf
        sizes[at] = 0
        counts[at] = 0
    reals[0] = 0.0
    for end in range(1, num_requests + 1):
        for used in range(1, num_instances + 1):
            cell = used * width + end
            most, least = end, 1
            if pruned and sizes[cell - width] > 0:
                most = sizes[cell - width]
            if pruned and counts[cell - 1] > 0:
                least = counts[cell - 1]
            best = math.inf
            for size in range(1, most + 1):
                start = end - size
                total, total_squares = tokens[end] - tokens[start], squares[end] - squares[start]
                gain = gains[end] - gains[start]
                for count in range(used, least - 1, -1):
                    if total > slots[used] - slots[used - count]:
                        break
                    seconds = seconds_on(cost, instances_per_node, count, total, total_squares)
                    sum_s = seconds * gain + reals[(used - count) * width + start]
                    if sum_s < best:
                        best = sum_s
                        sizes[cell] = size
                        counts[cell] = count
            reals[cell] = best
    return _trace(reals, sizes, counts, num_requests, num_instances, batches)


@kernel
def _sum_up(
    lengths: np.ndarray,
    num_requests: int,
    free: np.ndarray,
    num_instances: int,
    tokens: np.ndarray,
    squares: np.ndarray,
    gains: np.ndarray,
    slots: np.ndarray,
) -> None:
    """Prefix sums; those of tokens and their squares are whole numbers, exact as float64."""
    tokens[0], squares[0], gains[0], slots[0] = 0.0, 0.0, 0.0, 0
    for at in range(num_requests):
        length = float(lengths[at])
        tokens[at + 1] = tokens[at] + length
        squares[at + 1] = squares[at] + length * length
        gains[at + 1] = gains[at] + 1.0 / length
    for at in range(num_instances):
        slots[at + 1] = slots[at] + free[at]


@kernel
def _trace(
    best: np.ndarray,
    sizes: np.ndarray,
    counts: np.ndarray,
    num_requests: int,
    num_instances: int,
    batches: np.ndarray,
) -> int:
    """Follows the choices back from the best end."""
    width = num_requests + 1
    end, used = num_requests, 1
    for other in range(2, num_instances + 1):
        if best[other * width + end] < best[used * width + end]:
            used = other
    if best[used * width + end] == math.inf:
        return 0
    found = 0
    while end > 0:
        cell = used * width + end
        end -= sizes[cell]
        used -= counts[cell]
        row = found * BATCH_COLUMNS
        batches[row + FIRST_REQUEST] = end
        batches[row + NUM_REQUESTS] = sizes[cell]
        batches[row + FIRST_INSTANCE] = used
        batches[row + NUM_INSTANCES] = counts[cell]
        found += 1
    return found
