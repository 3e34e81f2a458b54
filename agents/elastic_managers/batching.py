"""Which requests are prefilled together, on how many instances: LoongServe's dynamic program.

Wu et al. (SOSP 2024), section 5, and `longserve_c_scheduler/src/main.cpp` of their code. Of requests in
order of falling length and instances in order of rising use, `f[i, j]` is the least sum of input latencies a
token, over batches, for the first `i` requests on the first `j` instances."""

import math

import numpy as np

from servegym.agents.elastic_managers.batching_table import Problem, Table, fill_exhaustively, fill_whole
from servegym.agents.elastic_managers.monotone_batching import fill_what_matters
from servegym.costmodels.elastic.cost import ElasticCost
from servegym.costmodels.native.jit import kernel, routine

FIRST_REQUEST, NUM_REQUESTS, FIRST_INSTANCE, NUM_INSTANCES = range(4)
"""What is said of a batch: consecutive requests and instances of their lists."""
BATCH_COLUMNS = 4

FEW = 16
"""Up to so many requests trying everything is as fast."""


def reals_for_batching(max_requests: int, num_instances: int) -> int:
    """How many float64 `find_batches` needs to work."""
    return (num_instances + 1 + 3) * (max_requests + 1)


def integers_for_batching(max_requests: int, num_instances: int) -> int:
    """How many int64 it needs."""
    return (2 * (num_instances + 1) + 2) * (max_requests + 1) + num_instances + 1


@routine
def find_batches(
    cost: ElasticCost,
    instances_per_node: int,
    lengths: np.ndarray,
    num_requests: int,
    free: np.ndarray,
    num_instances: int,
    pruned: bool,
    one_batch: bool,
    reals: np.ndarray,
    integers: np.ndarray,
    batches: np.ndarray,
) -> int:
    """The best batches of the first of `lengths`, which fall, on instances with `free` tokens.

    Fills `batches`, int64 (num_instances * BATCH_COLUMNS,), from the last batch to the first; how many, 0
    where there is no room. `pruned` only takes less time; `one_batch`: the best of those with all requests in
    one."""
    width, cells = num_requests + 1, (num_instances + 1) * (num_requests + 1)
    problem = Problem(
        cost,
        instances_per_node,
        num_requests,
        num_instances,
        reals[cells:],
        reals[cells + width :],
        reals[cells + 2 * width :],
        integers[2 * cells + 2 * width :],
    )
    _sum_up(lengths, free, problem)
    table = Table(reals, integers, integers[cells:])
    for at in range(cells):
        table.best[at] = math.inf
        table.counts[at] = 0
    table.best[0] = 0.0
    if one_batch:
        fill_whole(problem, table)
    elif pruned and num_requests > FEW:
        fill_what_matters(problem, table, integers[2 * cells :], integers[2 * cells + width :])
    else:
        fill_exhaustively(problem, table)
    return _trace(problem, table, batches)


@kernel
def _sum_up(lengths: np.ndarray, free: np.ndarray, problem: Problem) -> None:
    tokens, squares, gains, slots = problem.tokens, problem.squares, problem.gains, problem.slots
    tokens[0], squares[0], gains[0], slots[0] = 0.0, 0.0, 0.0, 0
    for at in range(problem.num_requests):
        length = float(lengths[at])
        tokens[at + 1] = tokens[at] + length
        squares[at + 1] = squares[at] + length * length
        gains[at + 1] = gains[at] + 1.0 / length
    for at in range(problem.num_instances):
        slots[at + 1] = slots[at] + free[at]


@kernel
def _trace(problem: Problem, table: Table, batches: np.ndarray) -> int:
    """Follows the last batches back from the best end."""
    width = problem.num_requests + 1
    end, used = problem.num_requests, 1
    for other in range(2, problem.num_instances + 1):
        if table.best[other * width + end] < table.best[used * width + end]:
            used = other
    if table.best[used * width + end] == math.inf:
        return 0
    found = 0
    while end > 0:
        cell = used * width + end
        end -= table.sizes[cell]
        used -= table.counts[cell]
        row = found * BATCH_COLUMNS
        batches[row + FIRST_REQUEST] = end
        batches[row + NUM_REQUESTS] = table.sizes[cell]
        batches[row + FIRST_INSTANCE] = used
        batches[row + NUM_INSTANCES] = table.counts[cell]
        found += 1
    return found
