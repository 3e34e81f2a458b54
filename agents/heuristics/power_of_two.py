"""Power of d choices: of d replicas drawn at random, the one with the fewest unfinished requests.

Mitzenmacher, "The power of two choices in randomized load balancing", IEEE TPDS 12(10), 2001; d = 2
is his and Ray Serve's default. The d draws are without replacement; ties go to the one drawn first.
"""

import numpy as np

from servegym.agents.parameters import PositiveInt
from servegym.agents.published import Evidence, published
from servegym.envs.sim.llm.router import Array, Router, compiled_router, next_uniform
from servegym.envs.sim.llm.view import AVAILABLE, RUNNING, WAITING


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """The least loaded of `parameters[0]` available replicas drawn without replacement."""
    num_replicas = replicas.shape[0]
    available = 0
    for replica in range(num_replicas):
        if replicas[replica, AVAILABLE] > 0:
            available += 1
    draws = min(int(parameters[0]), available)
    best, least = -1, np.inf
    unseen = available  # selection sampling: Knuth, TAOCP volume 2, algorithm S, in a random starting order
    start = int(next_uniform(random_state) * num_replicas)
    for step in range(num_replicas):
        replica = (start + step) % num_replicas
        if replicas[replica, AVAILABLE] == 0:
            continue
        if next_uniform(random_state) * unseen < draws:
            draws -= 1
            load = replicas[replica, RUNNING] + replicas[replica, WAITING]
            if load < least:
                best, least = replica, load
        unseen -= 1
        if draws == 0:
            break
    return best


@published(
    "router",
    source='Mitzenmacher, "The power of two choices in randomized load balancing", IEEE TPDS 12(10), 2001',
    evidence=Evidence.PAPER,
    complexity="O(R), of which d looks",
)
def power_of_two(d: PositiveInt = 2) -> Router:
    """Power of `d` choices."""
    return Router("power_of_two", choose, np.array([float(d)]))
