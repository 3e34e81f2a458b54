"""Multi-bin batching: requests of like predicted output are batched together, and batches run to their end.

Guldogan et al., "Multi-Bin Batching for Increasing LLM Inference Throughput" (arXiv 2412.04504): k bins of
equal probability, so bounded by quantiles of the predicted service time; here of the predicted output, on
which it depends. The engine's scheduler `multi_bin` makes the batches. The quantiles are those of a training
episode, so a test knows nothing of its own requests.
"""

from collections.abc import Sequence

import numpy as np

from servegym.agents.parameters import PositiveInt
from servegym.agents.published import Evidence, published
from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.ranking import PREDICTED_OUTPUT_TOKENS, Array, Ranking, compiled_ranking

AZURE_CONV_OUTPUTS = (7, 80, 114, 393, 1000)
"""Default: least, quartiles and most of the training part of the Azure conversation trace 2023, tokens."""


@compiled_ranking
def rank(requests: Array, replica: Array, parameters: Array, memory: Array, keys: Array) -> None:
    """The bin, from 0: how many of the edges (parameters) lie below the predicted output."""
    for i in range(requests.shape[0]):
        bin_number = 0
        for edge in parameters:
            if requests[i, PREDICTED_OUTPUT_TOKENS] > edge:
                bin_number += 1
        keys[i] = bin_number


@published(
    "scheduler",
    source='Guldogan et al., "Multi-Bin Batching for Increasing LLM Inference Throughput", arXiv 2412.04504',
    evidence=Evidence.PAPER,
    complexity="O(log n + k), k bins",
)
def multi_bin(
    num_bins: PositiveInt = 4,
    batch_size: PositiveInt = 32,
    max_num_batched_tokens: PositiveInt = 65_536,
    edges: Sequence[float] = (),
    predicted_outputs: Sequence[int] = AZURE_CONV_OUTPUTS,
) -> Ranking:
    """`batch_size` and the most prompt tokens of a batch are the engine's (ours; long prompts need room).

    `edges`: tokens, num_bins - 1 that ascend; a bin holds what is above one and at most the next;
    without edges they are quantiles of `predicted_outputs` (tokens). InputError for edges that do not fit.
    """
    inner = np.array(edges, np.float64)
    if len(edges) == 0:
        inner = np.quantile(predicted_outputs, np.arange(1, num_bins) / num_bins)
    if len(inner) != num_bins - 1 or not (np.diff(inner) >= 0).all() or not np.isfinite(inner).all():
        raise InputError(
            f"scheduler.edges = {list(edges)}: must be num_bins - 1 = {num_bins - 1} finite ones that ascend"
        )
    return Ranking(
        "multi_bin",
        rank,
        ranks="queue",
        parameters=inner,
        engine={
            "scheduler": "multi_bin",
            "max_num_seqs": batch_size,
            "max_num_batched_tokens": max_num_batched_tokens,
        },
        needs=frozenset({"predictions"}),
    )
