"""Triton: batches of preferred sizes as soon as a queue fills them, or whatever waits after a delay.

The dynamic batcher of NVIDIA's Triton Inference Server, as its documentation of model configurations has it.
A queue that fills the largest preferred size is sent at once; else the batcher waits for more requests until
the oldest has waited for `max_queue_delay_s`, and then sends the largest preferred size that it can, or all
that wait. Without preferred sizes the largest batch is the one preferred. It knows no deadlines.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

from servegym.agents.batch_schedulers.turns import in_turns
from servegym.agents.parameters import Allowed, NonNegativeFloat, NonNegativeInt
from servegym.agents.published import Evidence, published
from servegym.envs.sim.batch.scheduler import BatchScheduler


def _ascend(sizes: Sequence[Any]) -> bool:
    return all(int(size) == size for size in sizes) and all(low < high for low, high in pairwise((0, *sizes)))


@published(
    "batch_scheduler",
    source="NVIDIA Triton Inference Server, documentation of the dynamic batcher",
    evidence=Evidence.COMMON,
    complexity="O(M + log G) for a free GPU, O(1) while all are busy",
)
def triton(
    preferred: Annotated[Sequence[int], Allowed(_ascend, "whole numbers that ascend, from 1 or more")] = (),
    max_queue_delay_s: NonNegativeFloat = 0.0,
    max_batch: NonNegativeInt = 0,
) -> BatchScheduler:
    """Their `preferred_batch_size`, `max_queue_delay_microseconds` (in seconds) and `max_batch_size`.

    `max_batch` 0: the largest that takes half of the objective, which is ours. Preferred sizes above it or
    above what a model can run do not count.
    """
    return in_turns("triton", max_batch, max_queue_delay_s, preferred)
