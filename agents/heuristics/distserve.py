"""DistServe's dispatching: the shortest prefill queue, then the least loaded decode replica.

Zhong et al., "DistServe", OSDI 2024 (arXiv 2401.09670), section 4.3, in our reading: a queue is as long as
its pending prompt tokens (QUEUED_PREFILL_TOKENS), a decode replica as loaded as its requests are many, the
waiting ones included. Ties go to the fewest requests, then to the lowest number.
"""

from collections.abc import Sequence

import numpy as np

from servegym.agents.heuristics.pools import PREFILL, role_numbers, stage
from servegym.agents.published import Evidence, published
from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.view import AVAILABLE, QUEUED_PREFILL_TOKENS, RUNNING, WAITING


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """By the stage of the request; parameters: the roles."""
    prefills = stage(replicas, parameters) == PREFILL
    best, least, fewest = -1, np.inf, np.inf
    for replica in range(replicas.shape[0]):
        if replicas[replica, AVAILABLE] == 0:
            continue
        requests = replicas[replica, RUNNING] + replicas[replica, WAITING]
        load = replicas[replica, QUEUED_PREFILL_TOKENS] if prefills else requests
        if load < least or (load == least and requests < fewest):
            best, least, fewest = replica, load, requests
    return best


@published(
    "router",
    source='Zhong et al., "DistServe", OSDI 2024, arXiv 2401.09670, section 4.3',
    evidence=Evidence.READING,
    complexity="O(R)",
)
def distserve(roles: Sequence[str] = ()) -> Router:
    """`roles` of the replicas by number, mixed beyond the list."""
    return Router("distserve", choose, role_numbers(roles), needs=frozenset({"roles"}))
