"""Smooth weighted round robin: turns in proportion to weights, spread evenly.

nginx's rule for upstream servers (ngx_http_upstream_round_robin.c; our writing of a published rule): at every
turn each available replica's credit grows by its weight; the one with the most credit is chosen and pays the
sum of these weights. Ties go to the lowest number. With weights 5, 1, 1 it goes 0 0 1 0 2 0 0. A replica that
is not available neither gains nor pays.
"""

from collections.abc import Sequence

import numpy as np

from servegym.agents.published import Evidence, published
from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.view import AVAILABLE


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """The available replica with the most credit; parameters: weights; memory: credits."""
    best, total = -1, 0.0
    for replica in range(replicas.shape[0]):
        if replicas[replica, AVAILABLE] == 0:
            continue
        weight = parameters[replica] if replica < parameters.size else 1.0
        memory[replica] += weight
        total += weight
        if best < 0 or memory[replica] > memory[best]:
            best = replica
    if best >= 0:
        memory[best] -= total
    return best


@published(
    "router", source="nginx's smooth weighted round robin", evidence=Evidence.COMMON, complexity="O(R)"
)
def weighted_round_robin(weights: Sequence[float] = ()) -> Router:
    """Weights of replicas 0, 1, ..., each above 0; those beyond the list have 1, as nginx has it."""
    for number, weight in enumerate(weights):
        if not 0 < weight < np.inf:
            raise InputError(f"router.weights[{number}] = {weight}: must be above 0 and finite")
    return Router(
        "weighted_round_robin", choose, np.array(weights, np.float64), memory_per_replica=1, looks=False
    )
