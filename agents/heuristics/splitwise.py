"""Splitwise's cluster scheduler: each pool joins the shortest queue of what it is short of.

Patel et al., "Splitwise", ISCA 2024 (arXiv 2311.18677); read in the code of its simulator (mixed pools).
Prompts go to the prefill replica with the fewest prompt tokens pending (QUEUED_PREFILL_TOKENS). Where even
that one has more than `prompt_queue_limit`, a mixed one is borrowed, by the same rule, if it has fewer.
Then a request decodes where the fewest tokens are held (OUTSTANDING_TOKENS, those of waiting requests
included, stand for its memory). Not here: borrowing from the decode replicas, and for them, since a replica's
role is fixed. Ties go to the fewest requests, then to the lowest number.
"""

from collections.abc import Sequence

import numpy as np

from servegym.agents.heuristics.pools import PREFILL, role_numbers, role_of, stage
from servegym.agents.parameters import NonNegativeInt
from servegym.agents.published import Evidence, published
from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    OUTSTANDING_TOKENS,
    QUEUED_PREFILL_TOKENS,
    RUNNING,
    WAITING,
)


@kernel
def _shortest(replicas: Array, column: int, roles: Array, wanted: int) -> int:
    """The available replica with the least in `column`, of role `wanted` (-1: any)."""
    best, least, fewest = -1, np.inf, np.inf
    for replica in range(replicas.shape[0]):
        if replicas[replica, AVAILABLE] == 0 or (wanted >= 0 and role_of(roles, replica) != wanted):
            continue
        load = replicas[replica, column]
        requests = replicas[replica, RUNNING] + replicas[replica, WAITING]
        if load < least or (load == least and requests < fewest):
            best, least, fewest = replica, load, requests
    return best


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """By the stage of the request; parameters: the limit of a prompt queue, then the roles."""
    limit, roles = parameters[0], parameters[1:]
    if stage(replicas, roles) != PREFILL:
        return _shortest(replicas, OUTSTANDING_TOKENS, roles, -1)
    own = _shortest(replicas, QUEUED_PREFILL_TOKENS, roles, PREFILL)
    if own >= 0 and replicas[own, QUEUED_PREFILL_TOKENS] <= limit:
        return own
    return _shortest(replicas, QUEUED_PREFILL_TOKENS, roles, -1)


@published(
    "router",
    source='Patel et al., "Splitwise", ISCA 2024, arXiv 2311.18677',
    evidence=Evidence.CODE,
    complexity="O(R)",
)
def splitwise(prompt_queue_limit: NonNegativeInt = 8192, roles: Sequence[str] = ()) -> Router:
    """`prompt_queue_limit`: tokens; `roles` of the replicas by number, mixed beyond the list."""
    parameters = np.concatenate([[float(prompt_queue_limit)], role_numbers(roles)])
    return Router("splitwise", choose, parameters, needs=frozenset({"roles"}))
