"""Cache-aware load balancing of SGLang's router: prefixes as long as loads are balanced, else short queues.

Read in the authors' code (sgl-project/sglang, sgl-router/src/policies/cache_aware.rs); the defaults are those
of its launcher's first releases. Load is the requests unfinished. Loads are out of balance where

    max - min > balance_abs_threshold  and  max > balance_rel_threshold * min

Then the shortest queue is chosen. Otherwise the replica that holds most of the prompt, where that is more
than `cache_threshold` of it, else the one with most room for another prefix.

Different here: the router has approximate trees of what it sent where, we read PREFIX_HIT_TOKENS, the true
cache; its most room is the smallest tree, ours most free KV blocks; max and min are of available replicas,
there of all. Ties go to the lowest number.
"""

from typing import Annotated

import numpy as np

from servegym.agents.parameters import NonNegativeInt, at_least, within
from servegym.agents.published import Evidence, published
from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    KV_TOTAL_BLOCKS,
    KV_USED_BLOCKS,
    PREFIX_HIT_TOKENS,
    PROMPT_TOKENS,
    RUNNING,
    WAITING,
)


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """By queue, by match or by room; parameters: the three thresholds."""
    shortest, matching, roomiest = -1, -1, -1
    least, most, longest, room = np.inf, -np.inf, -np.inf, -np.inf
    for replica in range(replicas.shape[0]):
        if replicas[replica, AVAILABLE] == 0:
            continue
        load = replicas[replica, RUNNING] + replicas[replica, WAITING]
        hits = replicas[replica, PREFIX_HIT_TOKENS]
        free = replicas[replica, KV_TOTAL_BLOCKS] - replicas[replica, KV_USED_BLOCKS]
        most = max(most, load)
        if load < least:
            shortest, least = replica, load
        if hits > longest:
            matching, longest = replica, hits
        if free > room:
            roomiest, room = replica, free
    if most - least > parameters[1] and most > parameters[2] * least:
        return shortest
    return matching if longest > parameters[0] * request[PROMPT_TOKENS] else roomiest


@published("router", source="SGLang's router (sgl-project/sglang)", evidence=Evidence.CODE, complexity="O(R)")
def prefix_cache_aware(
    cache_threshold: Annotated[float, within(0, 1)] = 0.5,
    balance_abs_threshold: NonNegativeInt = 32,
    balance_rel_threshold: Annotated[float, at_least(1)] = 1.0001,
) -> Router:
    """A share of the prompt, requests, and a ratio."""
    thresholds = np.array([cache_threshold, balance_abs_threshold, balance_rel_threshold], np.float64)
    return Router("prefix_cache_aware", choose, thresholds, needs=frozenset({"prefix_caching"}))
