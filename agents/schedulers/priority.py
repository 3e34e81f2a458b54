"""Priority: the waiting queue by the clients' priorities, smaller first, of equals by arrival.

As vLLM's priority policy (`engine.order = priority`, docs/simulator.md): when blocks run out, the running
request that would come last is preempted.
"""

from servegym.agents.published import Evidence, published
from servegym.envs.sim.llm.ranking import PRIORITY, Array, Ranking, compiled_ranking


@compiled_ranking
def rank(requests: Array, replica: Array, parameters: Array, memory: Array, keys: Array) -> None:
    """The priority."""
    for i in range(requests.shape[0]):
        keys[i] = requests[i, PRIORITY]


@published(
    "scheduler",
    source="Priorities of clients, as vLLM has them",
    evidence=Evidence.COMMON,
    complexity="O(log n)",
)
def priority() -> Ranking:
    """Most urgent first."""
    return Ranking("priority", rank, ranks="queue", needs=frozenset({"priorities"}))
