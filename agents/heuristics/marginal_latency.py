"""Marginal latency: the replica where this request adds least to the latency of everyone. Ours.

Its own latency there (`completion_s` in forecasts.py), plus the delay that it causes to the others:

    seconds of its prefill * (running + waiting)
    + seconds that it adds to an iteration it decodes in * its output tokens but one * running

where an iteration with it lasts s_per_decode + s_per_context_token * its context longer, at the speed of the
replica. Ties go to the fewest requests, then to the lowest number.
"""

import numpy as np

from servegym.agents.heuristics.forecasts import (
    H100_LLAMA_8B,
    completion_s,
    forecast_parameters,
    new_prefill_tokens,
    output_tokens,
    running_there,
)
from servegym.agents.parameters import PositiveFloat, PositiveInt
from servegym.agents.published import Evidence, published
from servegym.costmodels.iterations.linear import LinearClock
from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    PROMPT_TOKENS,
    RUNNING,
    S_PER_CONTEXT_TOKEN,
    S_PER_DECODE,
    S_PER_PREFILL_TOKEN,
    SPEED,
    WAITING,
)


@kernel
def _delay_s(row: Array, request: Array, parameters: Array) -> float:
    """What it adds to the latencies of all others there."""
    output = output_tokens(request, parameters)
    context = request[PROMPT_TOKENS] + 0.5 * output
    prefill = parameters[S_PER_PREFILL_TOKEN] * new_prefill_tokens(row, request)
    each_decode = parameters[S_PER_DECODE] + parameters[S_PER_CONTEXT_TOKEN] * context
    running = running_there(row)
    delay = prefill * (running + row[WAITING]) + (output - 1.0) * each_decode * running
    return float(delay / row[SPEED])


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """The available replica where its own latency and the delay of the others are least together."""
    best, least, fewest = -1, np.inf, np.inf
    for replica in range(replicas.shape[0]):
        if replicas[replica, AVAILABLE] == 0:
            continue
        row = replicas[replica]
        load = completion_s(row, request, parameters) + _delay_s(row, request, parameters)
        requests = row[RUNNING] + row[WAITING]
        if load < least or (load == least and requests < fewest):
            best, least, fewest = replica, load, requests
    return best


@published("router", source="servegym", evidence=Evidence.OURS, complexity="O(R)")
def marginal_latency(
    token_budget: PositiveInt = 2048,
    block_size: PositiveInt = 16,
    mean_output_tokens: PositiveFloat = 211.0,
    clock: LinearClock = H100_LLAMA_8B,
) -> Router:
    """`token_budget` and `block_size` are the engine's; `clock` its iterations'.

    mean_output_tokens: of requests whose output is not predicted (211: mean of the Azure conversation trace
    of 2023); a scenario gives that of its training part.
    """
    parameters = forecast_parameters(clock, token_budget, block_size, mean_output_tokens)
    return Router("marginal_latency", choose, parameters)
