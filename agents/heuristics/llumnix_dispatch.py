"""Llumnix's dispatching: the replica of the most freeness (llumnix_freeness.py), of equals the lowest number.

Sun et al., "Llumnix: Dynamic Scheduling for Large Language Model Serving", OSDI 2024; read in the authors'
code. Urgent requests are dispatched like others: they come first in the queues of engines with `order:
priority`, and others are kept away from where they are. Rescheduling and scaling, its other half, are in
llumnix.py.
"""

from typing import Annotated

import numpy as np

from servegym.agents.heuristics.llumnix_freeness import freeness
from servegym.agents.parameters import PositiveInt, below
from servegym.agents.published import Evidence, published
from servegym.envs.sim.llm.router import Array, Router, compiled_router
from servegym.envs.sim.llm.view import AVAILABLE


@compiled_router
def choose(replicas: Array, request: Array, parameters: Array, memory: Array, random_state: Array) -> int:
    """The available replica of the most freeness; parameters: those of freeness."""
    best, most = -1, -np.inf
    for replica in range(replicas.shape[0]):
        if replicas[replica, AVAILABLE] == 0:
            continue
        free = freeness(replicas[replica], parameters)
        if free > most:
            best, most = replica, free
    return best


@published(
    "router",
    source='Sun et al., "Llumnix", OSDI 2024, arXiv 2406.03243',
    evidence=Evidence.CODE,
    complexity="O(R)",
)
def llumnix_dispatch(
    defrag: bool = True,
    watermark: Annotated[float, below(0, 1)] = 0.01,
    block_size: PositiveInt = 16,
    urgent_load_tokens: PositiveInt = 1600,
) -> Router:
    """`watermark`: share of KV blocks kept free; `block_size`: the engines'."""
    parameters = np.array([defrag, watermark, block_size, urgent_load_tokens], np.float64)
    return Router("llumnix_dispatch", choose, parameters, reads_router_columns=True)
