"""Session affinity: a session stays on the replica of its first request while that is available.

The sticky sessions of load balancers (the rule as commonly documented, no one's code). First requests, and
those whose replica is not available, go to the replica with the fewest unfinished requests (ties: lowest
number); a session returns to its replica when that is back. Where requests are routed more than once, each
is a stage of its own: those that its replica is no place for go by the fewest requests.
"""

import numpy as np

from servegym.agents.parameters import PositiveInt
from servegym.agents.published import Evidence, published
from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.view import AVAILABLE, RUNNING, SESSION, WAITING


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """The session's replica, else the least loaded; memory: by SESSION modulo its size, who and where.

    Sessions are counted from 0; both numbers are kept plus 1, so that 0 says nobody.
    """
    place = 2 * (int(request[SESSION]) % (memory.size // 2))
    known = memory[place] == request[SESSION] + 1.0
    if known:
        own = int(memory[place + 1]) - 1
        if replicas[own, AVAILABLE] > 0:
            return own
    best, least = -1, np.inf
    for replica in range(replicas.shape[0]):
        load = replicas[replica, RUNNING] + replicas[replica, WAITING]
        if replicas[replica, AVAILABLE] > 0 and load < least:
            best, least = replica, load
    if best >= 0 and not known:
        memory[place] = request[SESSION] + 1.0
        memory[place + 1] = best + 1.0
    return best


@published(
    "router",
    source="Sticky sessions of load balancers",
    evidence=Evidence.COMMON,
    complexity="O(1), O(R) for the first request of a session",
)
def session_affinity(sessions: PositiveInt = 1_048_576) -> Router:
    """Remembers the replica of a session until `sessions` or more requests have come since."""
    return Router("session_affinity", choose, memory_size=2 * sessions, needs=frozenset({"sessions"}))
