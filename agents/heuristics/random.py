"""Random: any available replica with equal probability."""

from servegym.agents.published import Evidence, published
from servegym.envs.sim.llm.router import Array, Router, compiled_router, next_uniform
from servegym.envs.sim.llm.view import AVAILABLE


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """A uniformly random available replica."""
    available = 0
    for replica in range(replicas.shape[0]):
        if replicas[replica, AVAILABLE] > 0:
            available += 1
    rank = int(next_uniform(random_state) * available)
    for replica in range(replicas.shape[0]):
        if replicas[replica, AVAILABLE] > 0:
            if rank == 0:
                return replica
            rank -= 1
    return -1


@published("router", source="Textbook", evidence=Evidence.COMMON, complexity="O(R)")
def random() -> Router:
    """Random routing."""
    return Router("random", choose, looks=False)
