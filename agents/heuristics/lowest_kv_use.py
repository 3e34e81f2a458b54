"""Lowest KV use: the replica with the smallest share of its KV blocks in use. Ties: lowest number."""

import numpy as np

from servegym.agents.published import Evidence, published
from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.view import AVAILABLE, KV_TOTAL_BLOCKS, KV_USED_BLOCKS


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """The available replica with the least KV_USED_BLOCKS / KV_TOTAL_BLOCKS."""
    best, least = -1, np.inf
    for replica in range(replicas.shape[0]):
        if replicas[replica, AVAILABLE] == 0:
            continue
        use = replicas[replica, KV_USED_BLOCKS] / max(1.0, replicas[replica, KV_TOTAL_BLOCKS])  # encode: 0
        if use < least:
            best, least = replica, use
    return best


@published("router", source="Load balancers for LLM serving", evidence=Evidence.COMMON, complexity="O(R)")
def lowest_kv_use() -> Router:
    """Lowest KV use."""
    return Router("lowest_kv_use", choose)
