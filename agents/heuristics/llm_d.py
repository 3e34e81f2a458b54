"""llm-d's endpoint picker: a weighted sum of scores, each in [0, 1]; the highest is chosen.

Scores read in the code that llm-d builds on (kubernetes-sigs/gateway-api-inference-extension,
pkg/epp/scheduling/framework/plugins: prefix-cache-scorer, queue-scorer, kv-cache-utilization-scorer,
max-score-picker):

    prefix  share of the prompt's full blocks that the replica has cached; 0 where it has none
    queue   (longest - own) / (longest - shortest) waiting queue; 1 where all are equal
    kv      1 - share of KV blocks in use

The weights 3 : 2 : 2 are second-hand, from descriptions of llm-d's guides. Ties are broken at random, as the
picker does. Different here: the prefix is of the true cache, by the engine's own blocks.
"""

import numpy as np

from servegym.agents.parameters import NonNegativeFloat, PositiveInt
from servegym.agents.published import Evidence, published
from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.router import Array, Router, compiled_router, next_uniform
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    KV_TOTAL_BLOCKS,
    KV_USED_BLOCKS,
    PREFIX_HIT_TOKENS,
    PROMPT_TOKENS,
    WAITING,
)


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """The available replica with the highest score; parameters: weights of prefix, queue, kv, block size."""
    shortest, longest = np.inf, -np.inf
    for replica in range(replicas.shape[0]):
        if replicas[replica, AVAILABLE] > 0:
            shortest = min(shortest, replicas[replica, WAITING])
            longest = max(longest, replicas[replica, WAITING])
    prompt = np.floor(request[PROMPT_TOKENS] / parameters[3]) * parameters[3]
    best, highest, equals = -1, -np.inf, 0
    for replica in range(replicas.shape[0]):
        if replicas[replica, AVAILABLE] == 0:
            continue
        prefix = replicas[replica, PREFIX_HIT_TOKENS] / prompt if prompt > 0 else 0.0
        queue = 1.0
        if longest > shortest:
            queue = (longest - replicas[replica, WAITING]) / (longest - shortest)
        kv = 1.0 - replicas[replica, KV_USED_BLOCKS] / max(1.0, replicas[replica, KV_TOTAL_BLOCKS])
        score = parameters[0] * prefix + parameters[1] * queue + parameters[2] * kv
        if score > highest:
            best, highest, equals = replica, score, 1
        elif score == highest:
            equals += 1
            if next_uniform(random_state) * equals < 1.0:  # each of k equals stays with probability 1 / k
                best = replica
    return best


@published(
    "router",
    source="llm-d on the Gateway API inference extension (kubernetes-sigs/gateway-api-inference-extension)",
    evidence=Evidence.CODE,
    complexity="O(R)",
)
def llm_d(
    prefix_weight: NonNegativeFloat = 3.0,
    queue_weight: NonNegativeFloat = 2.0,
    kv_weight: NonNegativeFloat = 2.0,
    block_size: PositiveInt = 16,
) -> Router:
    """Weights, not all of them 0; `block_size` is the engine's."""
    weights = (prefix_weight, queue_weight, kv_weight)
    if sum(weights) == 0:
        raise InputError("router.prefix_weight, queue_weight, kv_weight = 0: one must be above 0")
    needs = frozenset({"prefix_caching"} if prefix_weight > 0 else ())
    return Router("llm_d", choose, np.array([*weights, block_size], np.float64), needs=needs)
