"""Least outstanding tokens: the replica whose unfinished requests hold the fewest tokens.

Tokens of a request are its prompt and what it has generated so far. Ties go to the lowest number.
"""

import numpy as np

from servegym.agents.published import Evidence, published
from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.view import AVAILABLE, OUTSTANDING_TOKENS


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """The available replica with the least OUTSTANDING_TOKENS."""
    best, least = -1, np.inf
    for replica in range(replicas.shape[0]):
        load = replicas[replica, OUTSTANDING_TOKENS]
        if replicas[replica, AVAILABLE] > 0 and load < least:
            best, least = replica, load
    return best


@published("router", source="Load balancers for LLM serving", evidence=Evidence.COMMON, complexity="O(R)")
def least_outstanding_tokens() -> Router:
    """Least outstanding tokens."""
    return Router("least_outstanding_tokens", choose)
