"""FastServe: a skip-join multi-level feedback queue, which needs no predictions.

Wu et al., "Fast Distributed Inference Serving for Large Language Models" (arXiv 2305.05920); read in the
authors' code. Level i has a quantum of quantum_s * 2^i. A request joins the first level whose quantum
covers its prefill, behind all there; served in a level for longer than the quantum, it goes to the front of
the next. A batch is filled from the first level on. Every `starvation_period` iterations who has been idle
for `starvation_s` goes to the front of the first level. KV blocks are swapped out ahead of need, and
`max_batch` blocks kept free (`swap_ahead_blocks`, the engine's `ranked`); while less than a tenth of the
host's memory is free, no prompt is begun before what has been.

Our reading: a prefill lasts as long as the scenario's clock says of it alone; the last level keeps its
requests (theirs: no last level); the number of levels and the host's memory, 56 GB in blocks of Llama-3.1-8B,
over PCIe at 25 GB/s.
"""

import numpy as np

from servegym.agents.heuristics.forecasts import H100_LLAMA_8B
from servegym.agents.parameters import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from servegym.agents.published import Evidence, published
from servegym.agents.schedulers.keys import AHEAD
from servegym.costmodels.iterations.linear import LinearClock, check_clock
from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.llm.ranking import (
    ARRIVAL_S,
    BLOCK_SIZE,
    COMPUTED_TOKENS,
    GENERATED_TOKENS,
    LAST_ITERATION_S,
    MAX_BATCHED_TOKENS,
    MEMORY,
    NOW_S,
    PLACE,
    PROMPT_TOKENS,
    SERVED,
    SWAPPED,
    WAITING,
    Array,
    Ranking,
    compiled_ranking,
)

POSITION, IN_LEVEL_S, LAST_SERVED_S = MEMORY, MEMORY + 1, MEMORY + 2
"""Position in all queues, 0: in none yet; time served in this level; when it was last served, or came."""

LEVEL_S = 2.0**30
"""Position = queue * LEVEL_S + arrival, at its front - now; queue 0 is before level 0, i + 1 is level i."""

LEAST_HOST_SHARE = 0.1
"""Of the host's memory: with less of it free no prompt is begun."""


@kernel
def _host_is_full(requests: Array, replica: Array, host_blocks: float) -> bool:
    """Whether those swapped out leave less than LEAST_HOST_SHARE of its blocks."""
    held = 0.0
    for i in range(requests.shape[0]):
        if requests[i, PLACE] == SWAPPED:
            held += np.ceil(requests[i, COMPUTED_TOKENS] / replica[BLOCK_SIZE])
    return host_blocks - held < LEAST_HOST_SHARE * host_blocks


@compiled_ranking
def rank(requests: Array, replica: Array, parameters: Array, memory: Array, keys: Array) -> None:
    """The position.

    parameters: quantum, last level, starvation, its period, host blocks, seconds of an iteration and a token.
    memory: iterations.
    """
    quantum_s, last_level, starvation_s = parameters[0], parameters[1], parameters[2]
    memory[0] += 1.0
    looks_for_starved = memory[0] % parameters[3] == 0
    host_is_full = _host_is_full(requests, replica, parameters[4])
    for i in range(requests.shape[0]):
        request = requests[i]
        if request[POSITION] == 0:
            iterations = np.ceil(request[PROMPT_TOKENS] / replica[MAX_BATCHED_TOKENS])
            prefill_s = iterations * parameters[5] + request[PROMPT_TOKENS] * parameters[6]
            level = 0.0
            while level < last_level and quantum_s * 2.0**level < prefill_s:
                level += 1.0
            request[POSITION] = (level + 1.0) * LEVEL_S + request[ARRIVAL_S]
            request[LAST_SERVED_S] = request[ARRIVAL_S]
        queue = np.rint(request[POSITION] / LEVEL_S)
        if request[SERVED] > 0:
            request[LAST_SERVED_S] = replica[NOW_S]
            request[IN_LEVEL_S] += replica[LAST_ITERATION_S]
            level = max(0.0, queue - 1.0)
            if level < last_level and request[IN_LEVEL_S] > quantum_s * 2.0**level:
                request[POSITION] = (level + 2.0) * LEVEL_S - replica[NOW_S]
                request[IN_LEVEL_S] = 0.0
        elif looks_for_starved and queue > 0 and replica[NOW_S] - request[LAST_SERVED_S] >= starvation_s:
            request[POSITION] = replica[NOW_S]
            request[IN_LEVEL_S] = 0.0
        keys[i] = request[POSITION]
        if host_is_full and request[PLACE] == WAITING and request[GENERATED_TOKENS] == 0:
            keys[i] += AHEAD


@published(
    "scheduler",
    source='Wu et al., "Fast Distributed Inference Serving for Large Language Models", arXiv 2305.05920',
    evidence=Evidence.CODE,
    complexity="O(n log n)",
)
def fastserve(
    quantum_s: PositiveFloat = 0.01,
    num_levels: PositiveInt = 10,
    starvation_s: PositiveFloat = 3.0,
    starvation_period: PositiveInt = 1000,
    max_batch: PositiveInt = 64,
    swap_blocks: NonNegativeInt = 26_700,
    swap_s_per_block: NonNegativeFloat = 8.4e-5,
    swap_ahead_blocks: NonNegativeInt = 64,
    clock: LinearClock = H100_LLAMA_8B,
) -> Ranking:
    """Quantum of level 0, levels, when idleness is starvation, requests in a batch, and swapping.

    starvation_period: iterations from one look for the starved to the next.
    swap_blocks: KV blocks of host memory; 0: no swapping, preempted requests are recomputed.
    """
    check_clock(clock)
    engine: dict[str, object] = {"max_num_seqs": max_batch}
    if swap_blocks > 0:
        engine |= {
            "preemption": "swap",
            "swap_blocks": swap_blocks,
            "swap_s_per_block": swap_s_per_block,
            "swap_ahead_blocks": swap_ahead_blocks,
        }
    return Ranking(
        "fastserve",
        rank,
        every_iteration=True,
        parameters=np.array(
            [
                quantum_s,
                num_levels - 1,
                starvation_s,
                starvation_period,
                swap_blocks,
                clock.overhead_s,
                clock.s_per_prefill_token,
            ],
            np.float64,
        ),
        memory_size=1,
        engine=engine,
    )
