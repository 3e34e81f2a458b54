"""Predicted TTFT: the replica where the first token is foretold to come soonest. Ours.

What is left of the iteration in flight, the prefill queued there and this request's own (less what the prefix
cache holds) with the decodes that ride along, all at the speed of that replica, and the wait for KV memory
(`ttft_s` in forecasts.py). Ties go to the fewest requests, then to the lowest number. Replicas that only
decode are asked the same; its prefill is foretold there as if it were still to be done.
"""

import numpy as np

from servegym.agents.heuristics.forecasts import H100_LLAMA_8B, forecast_parameters, ttft_s
from servegym.agents.parameters import PositiveInt
from servegym.agents.published import Evidence, published
from servegym.costmodels.iterations.linear import LinearClock
from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.view import AVAILABLE, RUNNING, WAITING


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """The available replica of the least `ttft_s`."""
    best, least, fewest = -1, np.inf, np.inf
    for replica in range(replicas.shape[0]):
        if replicas[replica, AVAILABLE] == 0:
            continue
        load = ttft_s(replicas[replica], request, parameters)
        requests = replicas[replica, RUNNING] + replicas[replica, WAITING]
        if load < least or (load == least and requests < fewest):
            best, least, fewest = replica, load, requests
    return best


@published("router", source="servegym", evidence=Evidence.OURS, complexity="O(R)")
def predicted_ttft(
    token_budget: PositiveInt = 2048, block_size: PositiveInt = 16, clock: LinearClock = H100_LLAMA_8B
) -> Router:
    """`token_budget` and `block_size` are the engine's; `clock` its iterations'."""
    return Router("predicted_ttft", choose, forecast_parameters(clock, token_budget, block_size))
