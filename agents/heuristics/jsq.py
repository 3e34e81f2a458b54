"""JSQ, join the shortest queue: the replica with the fewest unfinished requests.

Also known as least outstanding requests. Ties go to the lowest number.
"""

import numpy as np

from servegym.agents.published import Evidence, published
from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.view import AVAILABLE, RUNNING, WAITING


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """The available replica with the least RUNNING + WAITING."""
    best, least = -1, np.inf
    for replica in range(replicas.shape[0]):
        load = replicas[replica, RUNNING] + replicas[replica, WAITING]
        if replicas[replica, AVAILABLE] > 0 and load < least:
            best, least = replica, load
    return best


@published(
    "router",
    source='Haight, "Two queues in parallel", Biometrika 1958; least outstanding requests of load balancers',
    evidence=Evidence.COMMON,
    complexity="O(R)",
)
def jsq() -> Router:
    """Join the shortest queue."""
    return Router("jsq", choose)
