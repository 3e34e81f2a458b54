"""Max capacity: the replica with the most KV blocks free.

A baseline of Intelligent Router (Jain et al., arXiv 2408.13510), read in the paper; free KV blocks stand for
the free capacity of an instance. Ties go to the fewest requests, then to the lowest number.
"""

import numpy as np

from servegym.agents.published import Evidence, published
from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.view import AVAILABLE, KV_TOTAL_BLOCKS, KV_USED_BLOCKS, RUNNING, WAITING


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """The available replica with the most KV_TOTAL_BLOCKS - KV_USED_BLOCKS."""
    best, most, fewest = -1, -np.inf, np.inf
    for replica in range(replicas.shape[0]):
        free = replicas[replica, KV_TOTAL_BLOCKS] - replicas[replica, KV_USED_BLOCKS]
        requests = replicas[replica, RUNNING] + replicas[replica, WAITING]
        if replicas[replica, AVAILABLE] > 0 and (free > most or (free == most and requests < fewest)):
            best, most, fewest = replica, free, requests
    return best


@published(
    "router",
    source='A baseline of Jain et al., "Intelligent Router for LLM Workloads", arXiv 2408.13510',
    evidence=Evidence.PAPER,
    complexity="O(R)",
)
def max_capacity() -> Router:
    """Most free KV blocks."""
    return Router("max_capacity", choose)
