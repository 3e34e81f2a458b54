"""SAL, the token-aware load balancer of Kossmann et al., in our reading.

"Is the GPU Half-Empty or Half-Full?" (arXiv 2410.17840) names SAL and describes it as token-aware; its
exact formula was not at hand. This is our reading, not the paper's formula: send the request where it would
be scheduled soonest, counted in iterations, where it waits either for the token budget or for KV memory:

    compute = (queued prefill tokens + prompt) / token budget
    memory  = max(0, queued prefill tokens + prompt - free KV tokens) / KV tokens released per iteration
    load    = compute, memory, max(compute, memory) or compute + memory

Ties go to the replica with the fewest running requests, then to the lowest number. Before a replica has
finished a request, nothing is known of its release rate: a lack of memory then counts as infinite.
"""

from typing import Annotated

import numpy as np

from servegym.agents.parameters import PositiveInt, one_of
from servegym.agents.published import Evidence, published
from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    KV_RELEASED_PER_ITERATION,
    KV_TOTAL_BLOCKS,
    KV_USED_BLOCKS,
    PROMPT_TOKENS,
    QUEUED_PREFILL_TOKENS,
    RUNNING,
)

TERMS = ("max", "sum", "compute", "memory")


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """The available replica with the least load; parameters: token budget, block size, index in TERMS."""
    budget, block_size, terms = parameters[0], parameters[1], int(parameters[2])
    best, least, fewest = -1, np.inf, np.inf
    for replica in range(replicas.shape[0]):
        if replicas[replica, AVAILABLE] == 0:
            continue
        tokens = replicas[replica, QUEUED_PREFILL_TOKENS] + request[PROMPT_TOKENS]
        free = (replicas[replica, KV_TOTAL_BLOCKS] - replicas[replica, KV_USED_BLOCKS]) * block_size
        compute_wait = tokens / budget
        memory_wait = 0.0
        if tokens > free:
            released = replicas[replica, KV_RELEASED_PER_ITERATION]
            memory_wait = (tokens - free) / released if released > 0 else np.inf
        if terms == 0:
            load = max(compute_wait, memory_wait)
        elif terms == 1:
            load = compute_wait + memory_wait
        elif terms == 2:
            load = compute_wait
        else:
            load = memory_wait
        running = replicas[replica, RUNNING]
        if best < 0 or load < least or (load == least and running < fewest):
            best, least, fewest = replica, load, running
    return best


@published(
    "router",
    source='Kossmann et al., "Is the GPU Half-Empty or Half-Full?", arXiv 2410.17840',
    evidence=Evidence.READING,
    complexity="O(R)",
)
def sal(
    token_budget: PositiveInt = 2048,
    block_size: PositiveInt = 16,
    terms: Annotated[str, one_of(*TERMS)] = "max",
) -> Router:
    """SAL in our reading. `token_budget` and `block_size` are the engine's; `terms` count as its load."""
    return Router("sal", choose, np.array([token_budget, block_size, TERMS.index(terms)], np.float64))
