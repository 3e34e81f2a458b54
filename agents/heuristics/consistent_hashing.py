"""Consistent hashing with bounded loads: equal keys meet on one replica, unless that has too much already.

Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018 (the rule as the paper
states it): replicas and keys are hashed onto a ring; with m requests unfinished, this one included, and n
replicas available no replica holds more than ceil(c m / n); a key goes to the first replica from its point on
that has room. Load is RUNNING + WAITING. Each replica stands on the ring in `virtual_nodes` places, as is
usual, so that without the bound they get about equal shares of the keys; the paper gives it one.

The key is PREFIX (how the prompt begins; SESSION where the workload does not say) or SESSION.
"""

from typing import Annotated

import numpy as np

from servegym.agents.parameters import at_least, one_of, within
from servegym.agents.published import Evidence, published
from servegym.costmodels.native.jit import jit
from servegym.envs.sim.llm.router import Array, Router, compiled_router, next_uniform
from servegym.envs.sim.llm.view import AVAILABLE, PREFIX, RUNNING, SESSION, WAITING

KEYS = ("prefix", "session")

REPLICAS, PREFIXES, SESSIONS = range(3)
"""Kinds of what is hashed onto the ring."""

MOST_NODES = 10_000
"""Of a replica."""


@jit
def point_on_ring(kind: int, number: int) -> float:
    """Where a number (from 0 to 2^53) of some kind is hashed to, in [0, 1)."""
    state = np.empty(1, np.uint64)
    state[0] = kind * 2**56 + number
    return next_uniform(state)


@jit
def _lay_out(points: Array, owners: Array, num_replicas: int) -> None:
    """Fills the ring: points in ascending order, and the replica that stands on each."""
    each = points.size // num_replicas
    for replica in range(num_replicas):
        for i in range(each):
            points[replica * each + i] = point_on_ring(REPLICAS, replica * MOST_NODES + i)
    order = np.argsort(points)
    points[:] = points[order]
    owners[:] = order // each


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """The first replica on the ring from the key on that has room; parameters: c, nodes, index in KEYS.

    memory: whether the ring is laid out, and the ring.
    """
    num_replicas = replicas.shape[0]
    size = num_replicas * int(parameters[1])
    points, owners = memory[1 : 1 + size], memory[1 + size : 1 + 2 * size]
    if memory[0] == 0:
        _lay_out(points, owners, num_replicas)
        memory[0] = 1.0
    available, total = 0, 0.0
    for replica in range(num_replicas):
        if replicas[replica, AVAILABLE] > 0:
            available += 1
            total += replicas[replica, RUNNING] + replicas[replica, WAITING]
    if available == 0:
        return -1
    room = np.ceil(parameters[0] * (total + 1.0) / available)
    kind, key = SESSIONS, request[SESSION]
    if parameters[2] == 0 and request[PREFIX] >= 0:
        kind, key = PREFIXES, request[PREFIX]
    place = int(np.searchsorted(points, point_on_ring(kind, int(key))))
    while True:  # somebody is below the mean
        if place >= size:
            place = 0
        replica = int(owners[place])
        load = replicas[replica, RUNNING] + replicas[replica, WAITING]
        if replicas[replica, AVAILABLE] > 0 and load < room:
            return replica
        place += 1


@published(
    "router",
    source='Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018',
    evidence=Evidence.PAPER,
    complexity="O(R + log(R virtual_nodes))",
)
def consistent_hashing(
    c: Annotated[float, at_least(1)] = 1.25,
    virtual_nodes: Annotated[int, within(1, MOST_NODES)] = 160,
    by: Annotated[str, one_of(*KEYS)] = "prefix",
) -> Router:
    """Loads at most `c` times the mean; `by` what the ring is looked up."""
    return Router(
        "consistent_hashing",
        choose,
        np.array([c, virtual_nodes, KEYS.index(by)], np.float64),
        memory_size=1,
        memory_per_replica=2 * virtual_nodes,
        needs=frozenset({"prefixes" if by == "prefix" else "sessions"}),
    )
