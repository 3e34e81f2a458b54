"""Llumnix's dispatching: the freest replica.

Sun et al., "Llumnix: Dynamic Scheduling for Large Language Model Serving", OSDI 2024; read in the authors'
code. A replica's freeness is what each of its requests could still grow by,

    freeness = (free KV blocks - watermark - blocks that those waiting need) / (running + waiting requests)

infinite where there are none. With `defrag` only the first waiting request is counted: rows do not tell its
length, so the mean of what is queued stands for it. Not here: the headroom that Llumnix keeps beside urgent
requests, since rows do not tell where those are. Rescheduling, its other half, is in llumnix.py. Ties go to
the lowest number.
"""

import numpy as np

from servegym.agents.published import Evidence, published
from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    KV_TOTAL_BLOCKS,
    KV_USED_BLOCKS,
    QUEUED_PREFILL_TOKENS,
    RUNNING,
    WAITING,
)


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """The available replica of the most freeness; parameters: defrag (0 or 1), watermark, block size."""
    defrag, watermark, block_size = parameters[0], parameters[1], parameters[2]
    best, most = -1, -np.inf
    for replica in range(replicas.shape[0]):
        if replicas[replica, AVAILABLE] == 0:
            continue
        row = replicas[replica]
        queued = row[QUEUED_PREFILL_TOKENS]
        if defrag > 0:
            queued /= max(1.0, row[WAITING])
        free = row[KV_TOTAL_BLOCKS] - row[KV_USED_BLOCKS] - np.floor(watermark * row[KV_TOTAL_BLOCKS])
        requests = row[RUNNING] + row[WAITING]
        freeness = (free - np.ceil(queued / block_size)) / requests if requests > 0 else np.inf
        if freeness > most:
            best, most = replica, freeness
    return best


@published(
    "router",
    source='Sun et al., "Llumnix", OSDI 2024, arXiv 2406.03243',
    evidence=Evidence.CODE,
    complexity="O(R)",
)
def llumnix_dispatch(defrag: bool = True, watermark: float = 0.01, block_size: int = 16) -> Router:
    """`watermark`: share of KV blocks kept free, from 0 to below 1; `block_size`: the engines', 1 or more."""
    if not 0 <= watermark < 1:
        raise InputError(f"router.watermark = {watermark}: must be at least 0 and below 1")
    if block_size < 1:
        raise InputError(f"router.block_size = {block_size}: must be at least 1")
    return Router("llumnix_dispatch", choose, np.array([defrag, watermark, block_size], np.float64))
