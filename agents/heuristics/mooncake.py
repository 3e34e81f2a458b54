"""Mooncake's conductor: the prefill instance of the least estimated TTFT, prefixes fetched where that pays.

Qin et al., "Mooncake", arXiv 2407.00079 and FAST 2025, algorithm 1 (as described there). With the longest
prefix of the prompt that any available replica has cached (`best`) and the own one:

    best / own below kvcache_balancing_threshold:  TTFT = queue + prefill of the prompt without the own prefix
    else:  TTFT = transfer of best - own tokens + queue + prefill of the prompt without the best prefix

with times of so many seconds a token. Ours: queue is QUEUED_PREFILL_TOKENS; the estimates are linear, the
paper's come from profiles; the threshold's value, which the paper does not print; ties go to the fewest
requests (so decode replicas, with nothing to prefill, are balanced), then to the lowest number.

The simulator does not move prefixes between replicas: a replica chosen for a prefix that it would fetch
computes it. With `transfer_s_per_token` infinite only replicas without need of a transfer are chosen.
Requests whose TTFT or TPOT would break the objective are not rejected, a router has to choose.
"""

from typing import Annotated

import numpy as np

from servegym.agents.parameters import PositiveFloat, at_least, within
from servegym.agents.published import Evidence, published
from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    PREFIX_HIT_TOKENS,
    PROMPT_TOKENS,
    QUEUED_PREFILL_TOKENS,
    RUNNING,
    WAITING,
)


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """The available replica of the least TTFT; parameters: threshold, seconds a token: prefill, transfer."""
    threshold, prefill_s, transfer_s = parameters[0], parameters[1], parameters[2]
    longest = 0.0
    for replica in range(replicas.shape[0]):
        if replicas[replica, AVAILABLE] > 0:
            longest = max(longest, replicas[replica, PREFIX_HIT_TOKENS])
    best, least, fewest = -1, np.inf, np.inf
    for replica in range(replicas.shape[0]):
        if replicas[replica, AVAILABLE] == 0:
            continue
        own = replicas[replica, PREFIX_HIT_TOKENS]
        queued = replicas[replica, QUEUED_PREFILL_TOKENS] + request[PROMPT_TOKENS]
        if longest == 0 or longest < threshold * own:
            ttft_s = prefill_s * (queued - own)
        else:
            ttft_s = prefill_s * (queued - longest)
            if longest > own:
                ttft_s += transfer_s * (longest - own)
        requests = replicas[replica, RUNNING] + replicas[replica, WAITING]
        if best < 0 or ttft_s < least or (ttft_s == least and requests < fewest):
            best, least, fewest = replica, ttft_s, requests
    return best


@published(
    "router",
    source='Qin et al., "Mooncake", arXiv 2407.00079, FAST 2025, algorithm 1',
    evidence=Evidence.PAPER,
    complexity="O(R)",
)
def mooncake(
    kvcache_balancing_threshold: Annotated[float, at_least(1)] = 2.0,
    prefill_s_per_token: PositiveFloat = 2e-5,
    transfer_s_per_token: Annotated[float, within(0, np.inf)] = 2.6e-6,
) -> Router:
    """A ratio, and seconds a token (inf: no prefix can be fetched).

    The defaults are our choices: about the roofline's time of Llama-3.1-8B on an H100, and its 128 KiB of KV
    a token over 400 Gbit/s.
    """
    threshold = kvcache_balancing_threshold
    constants = np.array([threshold, prefill_s_per_token, transfer_s_per_token], np.float64)
    return Router("mooncake", choose, constants, needs=frozenset({"prefix_caching"}))
