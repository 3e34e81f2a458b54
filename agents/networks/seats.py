"""What waiting requests mean to one more: places that it waits for, and that others wait for behind it. Ours.

A forecast beside those of forecasts.py, of a replica whose engine admits the shortest predicted output first.
Of those who wait it goes behind the share `output / (output + mean output)`. A place comes free when one of
those running has finished, so all that goes before it takes its predicted tokens times a decode iteration,
shared out among those running.
"""

import torch
from torch import Tensor

from servegym.agents.networks.forecasts import LONGEST_S
from servegym.envs.sim.llm.view import (
    DECODE_CONTEXT_TOKENS,
    MEAN_OUTPUT_TOKENS,
    OVERHEAD_S,
    PREDICTED_OUTPUT_TOKENS,
    PREDICTED_REMAINING_TOKENS,
    RUNNING,
    S_PER_CONTEXT_TOKEN,
    S_PER_DECODE,
    SPEED,
    WAITING,
)


def seat_waits_s(request: Tensor, replicas: Tensor, setting: Tensor) -> Tensor:
    """Seconds (B, R) that it waits for a place and others wait for its own, from raw observations."""
    running, waiting = replicas[..., RUNNING], replicas[..., WAITING]
    mean_output = setting[:, MEAN_OUTPUT_TOKENS, None].clamp(min=1.0)
    predicted = request[:, PREDICTED_OUTPUT_TOKENS, None]
    output = torch.where(predicted > 0, predicted, mean_output)
    behind = output / (output + mean_output)
    remaining = replicas[..., PREDICTED_REMAINING_TOKENS] / (running + waiting).clamp(min=1.0)
    tokens = waiting * (behind * remaining + (1.0 - behind) * output)
    iteration_s = setting[:, OVERHEAD_S, None] + setting[:, S_PER_DECODE, None] * running
    iteration_s = iteration_s + setting[:, S_PER_CONTEXT_TOKEN, None] * replicas[..., DECODE_CONTEXT_TOKENS]
    each_s = iteration_s / replicas[..., SPEED].clamp(min=1e-3)
    return (tokens * each_s / running.clamp(min=1.0)).clamp(max=LONGEST_S)
