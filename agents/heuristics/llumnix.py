"""Llumnix's rescheduling: running requests move from the fullest replicas to the freest ones.

Sun et al., "Llumnix: Dynamic Scheduling for Large Language Model Serving", OSDI 2024, section 4.4. The
freeness of a replica is what its requests could still grow by,

    freeness = (free KV blocks - blocks that those waiting need) / (running + waiting requests)

infinite where there are none; the waiting ones are the paper's virtual usage. A replica that takes no more
requests has the freeness minus infinity, so that it drains. Whoever is below `out_below` is a source, whoever
is above `in_above` a target; the source of the lowest freeness is paired with the target of the highest, and
so on. Which request leaves a source is the simulator's rule, and Llumnix's: low priority and short first.
"""

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.rebalancer import Rebalancer, compiled_rebalancer
from servegym.envs.sim.llm.router import Array
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    DECODE_CONTEXT_TOKENS,
    KV_TOTAL_BLOCKS,
    KV_USED_BLOCKS,
    QUEUED_PREFILL_TOKENS,
    RUNNING,
    WAITING,
)


@compiled_rebalancer
def choose(replicas: Array, parameters: Array, memory: Array, random_state: Array, moves: Array) -> int:
    """Pairs sources with targets; parameters: out_below, in_above (blocks per request), block size."""
    out_below, in_above, block_size = parameters[0], parameters[1], parameters[2]
    count = replicas.shape[0]
    freeness = np.empty(count)
    for i in range(count):
        requests = replicas[i, RUNNING] + replicas[i, WAITING]
        blocks = replicas[i, KV_TOTAL_BLOCKS] - replicas[i, KV_USED_BLOCKS]
        blocks -= np.ceil(replicas[i, QUEUED_PREFILL_TOKENS] / block_size)
        freeness[i] = blocks / requests if requests > 0 else np.inf
        if replicas[i, AVAILABLE] == 0:
            freeness[i] = -np.inf
    order = np.argsort(freeness, kind="mergesort")  # of equals the lowest number first
    number, last = 0, count - 1
    for source in order:
        if freeness[source] >= out_below:
            break
        if replicas[source, DECODE_CONTEXT_TOKENS] == 0:
            continue
        target = order[last]
        if freeness[target] <= in_above:
            break
        moves[number, 0], moves[number, 1] = source, target
        number += 1
        last -= 1
    return number


def llumnix_rebalancer(out_below: float = 3.0, in_above: float = 3.0, block_size: int = 16) -> Rebalancer:
    """Thresholds in KV blocks per request, Llumnix's by default; `block_size` is the engines'."""
    if out_below > in_above:
        raise InputError(
            f"rebalancer.out_below, in_above = {out_below}, {in_above}: the first must not be above the other"
        )
    if block_size < 1:
        raise InputError(f"rebalancer.block_size = {block_size}: must be at least 1")
    return Rebalancer("llumnix", choose, np.array([out_below, in_above, block_size], np.float64))
