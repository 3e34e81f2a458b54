"""Min-min: the replica where this request is foretold to be complete soonest.

A baseline of Intelligent Router (Jain et al., arXiv 2408.13510), after the classical heuristic for
independent tasks: of all pairs of a waiting task and a machine, the one that completes first.
Our reading: a router here has one request in hand, so only the machine is left to choose (minimum completion
time), and `completion_s` in forecasts.py stands for their estimate. Ties go to the fewest requests, then to
the lowest number.
"""

import numpy as np

from servegym.agents.heuristics.forecasts import H100_LLAMA_8B, completion_s, forecast_parameters
from servegym.agents.parameters import PositiveFloat, PositiveInt
from servegym.agents.published import Evidence, published
from servegym.costmodels.iterations.linear import LinearClock
from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.view import AVAILABLE, RUNNING, WAITING


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """The available replica of the least `completion_s`."""
    best, least, fewest = -1, np.inf, np.inf
    for replica in range(replicas.shape[0]):
        if replicas[replica, AVAILABLE] == 0:
            continue
        load = completion_s(replicas[replica], request, parameters)
        requests = replicas[replica, RUNNING] + replicas[replica, WAITING]
        if load < least or (load == least and requests < fewest):
            best, least, fewest = replica, load, requests
    return best


@published(
    "router",
    source='A baseline of Jain et al., "Intelligent Router for LLM Workloads", arXiv 2408.13510',
    evidence=Evidence.READING,
    complexity="O(R)",
)
def min_min(
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
    return Router("min_min", choose, parameters)
