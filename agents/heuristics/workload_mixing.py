"""Workload mixing: the replica where prompts and contexts slow each other least.

Intelligent Router (Jain et al., arXiv 2408.13510) adds to the reward of its agent

    alpha * r_p + (1 - alpha) * r_d

for mixing requests on an instance, with the seconds `grad1` of each prompt token and `grad2` of each context
token. The weights and gradients are the paper's (Llama-2-7B on a V100); the algebra of r_p and r_d was not at
hand. Our reading, taken greedily as a router of its own:

    r_p = -grad1 * (queued prefill tokens + prompt - prefix hits)
    r_d = -grad2 * (context tokens of the decodes + prompt + predicted output)

Ties go to the fewest requests, then to the lowest number.
"""

from typing import Annotated

import numpy as np

from servegym.agents.parameters import NonNegativeFloat, within
from servegym.agents.published import Evidence, published
from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    DECODE_CONTEXT_TOKENS,
    PREDICTED_OUTPUT_TOKENS,
    PREFIX_HIT_TOKENS,
    PROMPT_TOKENS,
    QUEUED_PREFILL_TOKENS,
    RUNNING,
    WAITING,
)


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """The available replica of the greatest mixing term; parameters: alpha, grad1, grad2."""
    alpha, grad1, grad2 = parameters[0], parameters[1], parameters[2]
    best, most, fewest = -1, -np.inf, np.inf
    for replica in range(replicas.shape[0]):
        if replicas[replica, AVAILABLE] == 0:
            continue
        row = replicas[replica]
        prefill = row[QUEUED_PREFILL_TOKENS] + request[PROMPT_TOKENS] - row[PREFIX_HIT_TOKENS]
        context = row[DECODE_CONTEXT_TOKENS] + request[PROMPT_TOKENS] + request[PREDICTED_OUTPUT_TOKENS]
        mixing = -alpha * grad1 * prefill - (1.0 - alpha) * grad2 * context
        requests = row[RUNNING] + row[WAITING]
        if mixing > most or (mixing == most and requests < fewest):
            best, most, fewest = replica, mixing, requests
    return best


@published(
    "router",
    source='Jain et al., "Intelligent Router for LLM Workloads", arXiv 2408.13510',
    evidence=Evidence.READING,
    complexity="O(R)",
)
def workload_mixing(
    alpha: Annotated[float, within(0, 1)] = 0.5,
    grad1: NonNegativeFloat = 3.2e-4,
    grad2: NonNegativeFloat = 3.3e-5,
) -> Router:
    """`alpha` weighs the prefill; `grad1`, `grad2` in seconds a token."""
    return Router("workload_mixing", choose, np.array([alpha, grad1, grad2]))
