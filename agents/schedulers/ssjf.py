"""SSJF, speculative shortest job first: of those who wait the shortest predicted execution; who runs stays.

Qiu et al., "Efficient Interactive LLM Serving with Proxy Model-based Sequence Length Prediction" (arXiv
2404.08509); read in the authors' code: a request is predicted to execute for 0.1 s and 0.02 s a token of its
predicted output. With the guard against starvation, off by default, those come first, by arrival, who have
waited for over 100 s or for over 10 times their execution; that order among them is our reading.
"""

import numpy as np

from servegym.agents.parameters import NonNegativeFloat, PositiveFloat
from servegym.agents.published import Evidence, published
from servegym.agents.schedulers.keys import AHEAD, FIRST
from servegym.envs.sim.llm.ranking import (
    ARRIVAL_S,
    NOW_S,
    PLACE,
    PREDICTED_OUTPUT_TOKENS,
    WAITING,
    Array,
    Ranking,
    compiled_ranking,
)


@compiled_ranking
def rank(requests: Array, replica: Array, parameters: Array, memory: Array, keys: Array) -> None:
    """The predicted execution, s; parameters: its two terms, 1 with the guard, the guard's two limits."""
    for i in range(requests.shape[0]):
        request = requests[i]
        execution_s = parameters[0] + parameters[1] * request[PREDICTED_OUTPUT_TOKENS]
        waited_s = replica[NOW_S] - request[ARRIVAL_S]
        keys[i] = execution_s
        if request[PLACE] != WAITING:
            keys[i] = FIRST
        elif parameters[2] > 0 and (waited_s > parameters[3] or waited_s > parameters[4] * execution_s):
            keys[i] = -AHEAD


@published(
    "scheduler",
    source='Qiu et al., "Efficient Interactive LLM Serving", arXiv 2404.08509',
    evidence=Evidence.CODE,
    complexity="O(n log n)",
)
def ssjf(
    base_s: NonNegativeFloat = 0.1,
    s_per_token: PositiveFloat = 0.02,
    guard: bool = False,
    max_wait_s: PositiveFloat = 100.0,
    max_wait_ratio: PositiveFloat = 10.0,
) -> Ranking:
    """Predicted execution; the guard: on or off, beyond which wait, and beyond how many executions."""
    parameters = np.array([base_s, s_per_token, guard, max_wait_s, max_wait_ratio], np.float64)
    return Ranking("ssjf", rank, parameters=parameters, needs=frozenset({"predictions"}))
