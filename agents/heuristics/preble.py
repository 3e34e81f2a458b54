"""Preble's E2: exploit a cached prefix where it outweighs the rest of the prompt, else explore by load.

Srivatsa et al., "Preble", arXiv 2407.00023, ICLR 2025; rules as read in the authors' code by those who noted
them for us (WukLab/preble, global_scheduler_with_time.py). With the longest cached prefix of the prompt:

    cached tokens > new tokens:  the replica that holds it, of several the one of the least load
    else:                        the replica of the least load with this request's own prefill there

load: seconds of the prefill sent there within `window_s`, and of decoding what is unfinished there (requests
times `output_tokens` times `decode_s_per_token`). Where the highest load is at least `rebalance_ratio` times
the lowest, and both replicas have been sent `rebalance_after` requests, what would go to the highest goes to
the lowest. Ties go to the lowest number.

Simplified, as rows do not give more: the radix tree is PREFIX_HIT_TOKENS, the true cache; the window is kept
in 18 parts, as tokens missed when sent, not prefix by prefix; median output and time per token are constants;
prefill is linear; the price of evictions and the replication of a prefix by its TTFT are left out. Time is
the sum of GAP_S; where requests are routed more than once (roles, failures) it runs faster than the clock.
"""

from typing import Annotated

import numpy as np

from servegym.agents.parameters import NonNegativeInt, PositiveFloat, at_least
from servegym.agents.published import Evidence, published
from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.view import AVAILABLE, GAP_S, PREFIX_HIT_TOKENS, PROMPT_TOKENS, RUNNING, WAITING

PARTS = 18
"""Of the window."""

WINDOW_S, PREFILL_S, DECODE_S, RATIO, LEAST_SENT = range(5)
"""Parameters; DECODE_S is of a whole output."""

NOW_S, PART, FIRST = range(3)
"""Memory: time, number of the part of the window it is in, and from FIRST on a record for each replica."""

SENT, TOKENS, PER_PART = range(3)
"""Of a record: requests sent so far, tokens missed in the window, and in each of its parts."""

RECORD = PER_PART + PARTS


@kernel
def _move_window(memory: Array, gap_s: float, part_s: float) -> None:
    """Time goes on; parts of the window that it enters are forgotten."""
    memory[NOW_S] += gap_s
    before = memory[PART]
    memory[PART] = np.floor(memory[NOW_S] / part_s)
    for step in range(int(min(memory[PART] - before, PARTS))):
        part = PER_PART + int((before + 1 + step) % PARTS)
        for record in range(FIRST, memory.size, RECORD):
            memory[record + TOKENS] -= memory[record + part]
            memory[record + part] = 0.0


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """Exploits or explores, and rebalances."""
    _move_window(memory, request[GAP_S], parameters[WINDOW_S] / PARTS)
    heaviest, lightest, exploited, explored = -1, -1, -1, -1
    highest, lowest, least_held, least_there, longest = -np.inf, np.inf, np.inf, np.inf, -1.0
    for replica in range(replicas.shape[0]):
        if replicas[replica, AVAILABLE] == 0:
            continue
        hits = replicas[replica, PREFIX_HIT_TOKENS]
        unfinished = replicas[replica, RUNNING] + replicas[replica, WAITING]
        sent = parameters[PREFILL_S] * memory[FIRST + replica * RECORD + TOKENS]
        load = sent + parameters[DECODE_S] * unfinished
        there = load + parameters[PREFILL_S] * (request[PROMPT_TOKENS] - hits)
        if load > highest:
            heaviest, highest = replica, load
        if load < lowest:
            lightest, lowest = replica, load
        if there < least_there:
            explored, least_there = replica, there
        if hits > longest or (hits == longest and load < least_held):
            exploited, longest, least_held = replica, hits, load
    if heaviest < 0:
        return -1
    best = exploited if longest > request[PROMPT_TOKENS] - longest else explored
    if best == heaviest and highest >= parameters[RATIO] * lowest:
        fewest = min(memory[FIRST + heaviest * RECORD + SENT], memory[FIRST + lightest * RECORD + SENT])
        if fewest >= parameters[LEAST_SENT]:
            best = lightest
    record = FIRST + best * RECORD
    missed = request[PROMPT_TOKENS] - replicas[best, PREFIX_HIT_TOKENS]
    memory[record + SENT] += 1.0
    memory[record + TOKENS] += missed
    memory[record + PER_PART + int(memory[PART] % PARTS)] += missed
    return best


@published(
    "router",
    source='Srivatsa et al., "Preble", arXiv 2407.00023, ICLR 2025',
    evidence=Evidence.SECOND_HAND,
    complexity="O(R)",
)
def preble(
    window_s: PositiveFloat = 180.0,
    rebalance_ratio: Annotated[float, at_least(1)] = 1.5,
    rebalance_after: NonNegativeInt = 50,
    prefill_s_per_token: PositiveFloat = 2e-5,
    decode_s_per_token: PositiveFloat = 0.008,
    output_tokens: PositiveFloat = 200.0,
) -> Router:
    """Window, ratio and number of requests are Preble's, the last three are ours.

    They are the model's; by default about those of Llama-3.1-8B on an H100 and of conversations.
    """
    decode_s = decode_s_per_token * output_tokens
    return Router(
        "preble",
        choose,
        np.array([window_s, prefill_s_per_token, decode_s, rebalance_ratio, rebalance_after], np.float64),
        memory_size=FIRST,
        memory_per_replica=RECORD,
        needs=frozenset({"prefix_caching"}),
    )
