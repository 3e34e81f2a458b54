"""TRAIL: shortest predicted remaining output, with preemption only of those who have not come far.

Shahout et al., "Don't Stop Me Now: Embedding Based Scheduling for LLMs" (ICLR 2025, arXiv 2410.01035), SPRPT
with limited preemption: a running request may be preempted while it has generated fewer than c times the
tokens first predicted. c = 0 never preempts, c = 1 always may; 0.8 is the paper's best. Its predictions get
better while tokens come: `prediction_refinement` of the workload. Those beyond c keep that order among
themselves.
"""

from typing import Annotated

import numpy as np

from servegym.agents.parameters import within
from servegym.agents.published import Evidence, published
from servegym.agents.schedulers.keys import AHEAD
from servegym.envs.sim.llm.ranking import (
    GENERATED_TOKENS,
    PLACE,
    PREDICTED_OUTPUT_TOKENS,
    PREDICTED_REMAINING_TOKENS,
    RUNNING,
    Array,
    Ranking,
    compiled_ranking,
)


@compiled_ranking
def rank(requests: Array, replica: Array, parameters: Array, memory: Array, keys: Array) -> None:
    """The predicted remaining output, those who may not be preempted ahead; parameters: c."""
    for i in range(requests.shape[0]):
        request = requests[i]
        keys[i] = request[PREDICTED_REMAINING_TOKENS]
        far = request[GENERATED_TOKENS] >= parameters[0] * request[PREDICTED_OUTPUT_TOKENS]
        if request[PLACE] == RUNNING and far:
            keys[i] -= AHEAD


@published(
    "scheduler",
    source="Shahout et al., TRAIL, ICLR 2025, arXiv 2410.01035",
    evidence=Evidence.SECOND_HAND,
    complexity="O(n log n)",
)
def trail(c: Annotated[float, within(0, 1)] = 0.8) -> Ranking:
    """`c`: share of the first prediction from which on a running request stays."""
    return Ranking("trail", rank, parameters=np.array([c], np.float64), needs=frozenset({"predictions"}))
