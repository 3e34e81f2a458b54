"""SJF, shortest job first: the waiting queue by predicted output, whoever runs stays.

The classical rule, on predicted output tokens; exact where the predictor is (`predictor: exact`). A key is
computed once for each time a request is queued.
"""

from servegym.agents.published import Evidence, published
from servegym.envs.sim.llm.ranking import PREDICTED_OUTPUT_TOKENS, Array, Ranking, compiled_ranking


@compiled_ranking
def rank(requests: Array, replica: Array, parameters: Array, memory: Array, keys: Array) -> None:
    """The predicted output."""
    for i in range(requests.shape[0]):
        keys[i] = requests[i, PREDICTED_OUTPUT_TOKENS]


@published(
    "scheduler",
    source="Textbook: shortest job first, on predicted output",
    evidence=Evidence.COMMON,
    complexity="O(log n)",
)
def sjf() -> Ranking:
    """Shortest job first."""
    return Ranking("sjf", rank, ranks="queue", needs=frozenset({"predictions"}))
