"""EDF, earliest deadline first: the waiting queue by when the first token was promised.

Liu and Layland, "Scheduling Algorithms for Multiprogramming in a Hard-Real-Time Environment" (JACM 1973), on
one deadline of each request: arrival + TTFT promised to its SLO class. Who was promised nothing comes last,
by arrival.
"""

from servegym.agents.published import Evidence, published
from servegym.envs.sim.llm.ranking import ARRIVAL_S, TTFT_SLO_S, Array, Ranking, compiled_ranking


@compiled_ranking
def rank(requests: Array, replica: Array, parameters: Array, memory: Array, keys: Array) -> None:
    """The deadline of the first token, s."""
    for i in range(requests.shape[0]):
        keys[i] = requests[i, ARRIVAL_S] + requests[i, TTFT_SLO_S]


@published(
    "scheduler",
    source='Liu and Layland, "Scheduling algorithms for multiprogramming", JACM 1973',
    evidence=Evidence.COMMON,
    complexity="O(log n)",
)
def edf() -> Ranking:
    """Earliest deadline first."""
    return Ranking("edf", rank, ranks="queue", needs=frozenset({"slo_classes"}))
