"""SRPT, shortest remaining processing time: in every batch those first that are predicted to end soonest.

Schrage, "A Proof of the Optimality of the Shortest Remaining Processing Time Discipline" (Operations Research
1968), on predicted remaining output tokens: whoever comes with less to do pauses another, and prompts count
nothing.
"""

from servegym.agents.published import Evidence, published
from servegym.envs.sim.llm.ranking import PREDICTED_REMAINING_TOKENS, Array, Ranking, compiled_ranking


@compiled_ranking
def rank(requests: Array, replica: Array, parameters: Array, memory: Array, keys: Array) -> None:
    """The predicted remaining output."""
    for i in range(requests.shape[0]):
        keys[i] = requests[i, PREDICTED_REMAINING_TOKENS]


@published(
    "scheduler",
    source="Schrage, Operations Research 1968, on predicted remaining output",
    evidence=Evidence.COMMON,
    complexity="O(n log n)",
)
def srpt() -> Ranking:
    """Shortest predicted remaining output first."""
    return Ranking("srpt", rank, needs=frozenset({"predictions"}))
