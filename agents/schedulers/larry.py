"""LARRY, the engine's scheduler of Kossmann et al., in our reading.

"Is the GPU Half-Empty or Half-Full?" (arXiv 2410.17840) names LARRY, a drop-in for vLLM's waiting queue that
looks at waiting times, prompts and memory; its exact formula was not at hand. This is our reading, not the
paper's formula: short prompts first, but whoever waits moves forward, and admission leaves a share of the KV
cache free:

    key = w_len * prompt / token_budget - w_wait * wait / wait_s

All waiting times grow alike, so with -arrival for wait the order is the same and the key is fixed when a
request is queued. `headroom` is the engine's watermark.
"""

from typing import Annotated

import numpy as np

from servegym.agents.parameters import NonNegativeFloat, PositiveFloat, PositiveInt, within
from servegym.agents.published import Evidence, published
from servegym.envs.sim.llm.ranking import ARRIVAL_S, PROMPT_TOKENS, Array, Ranking, compiled_ranking


@compiled_ranking
def rank(requests: Array, replica: Array, parameters: Array, memory: Array, keys: Array) -> None:
    """Weighted prompt and arrival; parameters: weight of a prompt token, and of a second."""
    for i in range(requests.shape[0]):
        keys[i] = parameters[0] * requests[i, PROMPT_TOKENS] + parameters[1] * requests[i, ARRIVAL_S]


@published(
    "scheduler",
    source='Kossmann et al., "Is the GPU Half-Empty or Half-Full?", arXiv 2410.17840',
    evidence=Evidence.READING,
    complexity="O(log n)",
)
def larry(
    w_wait: NonNegativeFloat = 1.0,
    w_len: NonNegativeFloat = 1.0,
    wait_s: PositiveFloat = 1.0,
    token_budget: PositiveInt = 2048,
    headroom: Annotated[float, within(0, 0.2)] = 0.05,
) -> Ranking:
    """Weights, the wait that counts as a whole iteration of prompt, and the share of KV blocks kept free.

    The defaults are ours. `token_budget` is the engine's. `headroom` 0 leaves the engine its own watermark.
    """
    return Ranking(
        "larry",
        rank,
        ranks="queue",
        parameters=np.array([w_len / token_budget, w_wait / wait_s], np.float64),
        engine={"watermark": headroom} if headroom > 0 else {},
    )
