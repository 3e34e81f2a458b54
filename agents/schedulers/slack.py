"""Least slack: the waiting queue by the latest moment at which a request can start and still be on time.

Least slack (or laxity) first is classical (Mok, MIT 1983); how a request is counted is ours:

    deadline = arrival + TTFT promised + TPOT promised * (predicted output - 1)
    service  = s_per_prompt_token * prompt + s_per_output_token * (predicted output - 1)
    key      = deadline - service

Where no TPOT is promised the terms of the decoding are left out: the first token is what can be late.
"""

import numpy as np

from servegym.agents.heuristics.forecasts import H100_LLAMA_8B
from servegym.agents.parameters import NonNegativeFloat
from servegym.agents.published import Evidence, published
from servegym.costmodels.iterations.linear import LinearClock, check_clock
from servegym.envs.sim.llm.ranking import (
    ARRIVAL_S,
    PREDICTED_OUTPUT_TOKENS,
    PROMPT_TOKENS,
    TPOT_SLO_S,
    TTFT_SLO_S,
    Array,
    Ranking,
    compiled_ranking,
)


@compiled_ranking
def rank(requests: Array, replica: Array, parameters: Array, memory: Array, keys: Array) -> None:
    """The latest start, s; parameters: seconds per prompt token and per output token."""
    for i in range(requests.shape[0]):
        request = requests[i]
        key = request[ARRIVAL_S] + request[TTFT_SLO_S] - parameters[0] * request[PROMPT_TOKENS]
        if request[TPOT_SLO_S] < np.inf:
            decodes = max(0.0, request[PREDICTED_OUTPUT_TOKENS] - 1.0)
            key += decodes * (request[TPOT_SLO_S] - parameters[1])
        keys[i] = key


@published(
    "scheduler",
    source="Least slack first (Mok, PhD thesis, MIT 1983), with our count of the service",
    evidence=Evidence.READING,
    complexity="O(log n)",
)
def slack(
    s_per_prompt_token: NonNegativeFloat = 0.0,
    s_per_output_token: NonNegativeFloat = 0.0,
    clock: LinearClock = H100_LLAMA_8B,
) -> Ranking:
    """Seconds that a token of the prompt and of the output take; 0: of a request alone, by the `clock`."""
    check_clock(clock)
    prompt_s = s_per_prompt_token or clock.s_per_prefill_token
    output_s = s_per_output_token or clock.overhead_s + clock.s_per_decode
    parameters = np.array([prompt_s, output_s], np.float64)
    return Ranking(
        "slack", rank, ranks="queue", parameters=parameters, needs=frozenset({"slo_classes", "predictions"})
    )
