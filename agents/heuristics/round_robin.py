"""Round robin: the next available replica in turn."""

from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.view import AVAILABLE


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """The first available replica from where the last turn ended."""
    num_replicas = replicas.shape[0]
    start = int(memory[0])
    for step in range(num_replicas):
        replica = start + step
        if replica >= num_replicas:
            replica -= num_replicas
        if replicas[replica, AVAILABLE] > 0:
            memory[0] = replica + 1 if replica + 1 < num_replicas else 0
            return replica
    return -1


def round_robin() -> Router:
    """Round robin routing."""
    return Router("round_robin", choose, memory_size=1, looks=False)
