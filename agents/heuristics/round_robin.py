"""Round robin: the available replica that has waited longest for its turn.

Plain round robin where the same replicas are always available. Where they are not (prefill and decode
replicas, failures), each set of replicas takes turns of its own; one pointer for all would be moved on by one
stage for the other.

The memory is a ring of all replicas, from the one whose turn is longest ago to the one whose turn was last:
where it ends, and of each replica how many numbers the next one is off from the number after its own. Zeros
are the order by number.
"""

from servegym.agents.published import Evidence, published
from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.view import AVAILABLE


@kernel
def _around(number: int, num_replicas: int) -> int:
    """The replica of a number from -num_replicas to 2 num_replicas - 1."""
    if number < 0:
        return number + num_replicas
    return number if number < num_replicas else number - num_replicas


@kernel
def _next(memory: Array, replica: int, num_replicas: int) -> int:
    return _around(replica + 1 + int(memory[1 + replica]), num_replicas)


@kernel
def _set_next(memory: Array, replica: int, following: int) -> None:
    memory[1 + replica] = following - replica - 1


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """The first available replica of the ring, which goes to its end."""
    num_replicas = replicas.shape[0]
    last = _around(int(memory[0]) - 1, num_replicas)
    before = last
    for _ in range(num_replicas):
        replica = _next(memory, before, num_replicas)
        if replicas[replica, AVAILABLE] > 0:
            if before != last and replica != last:
                _set_next(memory, before, _next(memory, replica, num_replicas))
                _set_next(memory, replica, _next(memory, last, num_replicas))
                _set_next(memory, last, replica)
            memory[0] = _around(replica + 1, num_replicas)
            return replica
        before = replica
    return -1


@published("router", source="Textbook", evidence=Evidence.COMMON, complexity="O(R)")
def round_robin() -> Router:
    """Round robin routing."""
    return Router("round_robin", choose, memory_size=1, memory_per_replica=1, looks=False)
