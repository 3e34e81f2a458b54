"""Learning to rank: running and waiting requests in one order, the shortest predicted output first.

Fu et al., "Efficient LLM Scheduling by Learning to Rank" (NeurIPS 2024, arXiv 2408.15792); read in the
authors' code. Their score comes from a network that has learnt to order outputs; here it is the predicted
length (predictor `ranked` has the published Kendall tau). Their guard against starvation: a request left out
of `starvation_iterations` iterations in a row is of high priority for the next `quantum_iterations` that
serve it. Starved requests are ordered by score as well.
"""

import numpy as np

from servegym.agents.parameters import NonNegativeInt, PositiveInt
from servegym.agents.published import Evidence, published
from servegym.agents.schedulers.keys import AHEAD
from servegym.envs.sim.llm.ranking import (
    MEMORY,
    PREDICTED_OUTPUT_TOKENS,
    SERVED,
    Array,
    Ranking,
    compiled_ranking,
)

IDLE, QUANTUM, SEEN = MEMORY, MEMORY + 1, MEMORY + 2
"""Iterations left out in a row; served ones of high priority that are left; asked about before."""


@compiled_ranking
def rank(requests: Array, replica: Array, parameters: Array, memory: Array, keys: Array) -> None:
    """The predicted output, the starved ahead; parameters: T (0: no guard) and Q."""
    starvation, quantum = parameters[0], parameters[1]
    for i in range(requests.shape[0]):
        request = requests[i]
        keys[i] = request[PREDICTED_OUTPUT_TOKENS]
        if starvation == 0:
            continue
        if request[SERVED] > 0:
            request[IDLE] = 0.0
            request[QUANTUM] = max(0.0, request[QUANTUM] - 1.0)
        elif request[SEEN] > 0:
            request[IDLE] += 1.0
        request[SEEN] = 1.0
        if request[IDLE] >= starvation:
            request[IDLE], request[QUANTUM] = 0.0, quantum
        if request[QUANTUM] > 0:
            keys[i] -= AHEAD


@published(
    "scheduler",
    source='Fu et al., "Efficient LLM Scheduling by Learning to Rank", NeurIPS 2024, arXiv 2408.15792',
    evidence=Evidence.CODE,
    complexity="O(n log n)",
)
def learning_to_rank(
    starvation_iterations: NonNegativeInt = 200, quantum_iterations: PositiveInt = 10
) -> Ranking:
    """T and Q of the guard, as evaluated by the authors; `starvation_iterations` 0: no guard."""
    return Ranking(
        "learning_to_rank",
        rank,
        every_iteration=starvation_iterations > 0,
        parameters=np.array([starvation_iterations, quantum_iterations], np.float64),
        needs=frozenset({"predictions"}),
    )
