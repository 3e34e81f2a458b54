"""Conservative admission: by arrival, with KV blocks set aside for output that is still to come.

The dial between the two ways engines admit, which Kossmann et al. compare ("Is the GPU Half-Empty or
Half-Full?", arXiv 2410.17840): 0 fills the KV cache and preempts when it overflows (vLLM), 1 sets aside the
whole output limit and never preempts (TensorRT-LLM's GUARANTEED_NO_EVICT). What lies between is ours, see
`reserved_output_share` in docs/simulator.md.
"""

from typing import Annotated

from servegym.agents.parameters import within
from servegym.agents.published import Evidence, published
from servegym.envs.sim.llm.ranking import ARRIVAL_S, Array, Ranking, compiled_ranking


@compiled_ranking
def rank(requests: Array, replica: Array, parameters: Array, memory: Array, keys: Array) -> None:
    """The arrival, s."""
    for i in range(requests.shape[0]):
        keys[i] = requests[i, ARRIVAL_S]


@published(
    "scheduler",
    source='Ends: Kossmann et al., "Is the GPU Half-Empty or Half-Full?", arXiv 2410.17840',
    evidence=Evidence.OURS,
    complexity="O(log n)",
)
def conservative(reserved_output_share: Annotated[float, within(0, 1)] = 1.0) -> Ranking:
    """`reserved_output_share`: of a request's output limit, what its admission sets blocks aside for."""
    return Ranking(
        "conservative", rank, ranks="queue", engine={"reserved_output_share": float(reserved_output_share)}
    )
