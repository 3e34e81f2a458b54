"""What a network is told of a replica beside what it sees: forecasts, as routers make them.

Most are the sums of agents/heuristics/forecasts.py and marginal_latency.py, for whole batches (a test holds
them equal), with those counted who are on their way to a replica whose old state is seen. Constants are
those of `setting`, so one network serves fleets of any GPUs.
"""

import torch
from torch import Tensor

from servegym.envs.sim.llm.view import (
    BLOCK_SIZE,
    DECODE_CONTEXT_TOKENS,
    ITERATION_LEFT_S,
    KV_RELEASED_PER_ITERATION,
    KV_TOTAL_BLOCKS,
    KV_USED_BLOCKS,
    MEAN_OUTPUT_TOKENS,
    OVERHEAD_S,
    PREDICTED_OUTPUT_TOKENS,
    PREFIX_HIT_TOKENS,
    PROMPT_TOKENS,
    QUEUED_PREFILL_TOKENS,
    RUNNING,
    S_PER_CONTEXT_TOKEN,
    S_PER_DECODE,
    S_PER_PREFILL_TOKEN,
    SPEED,
    TOKEN_BUDGET,
    UNSEEN_PREFILL_TOKENS,
    UNSEEN_REQUESTS,
    WAITING,
)

LONGEST_S = 300.0
"""Forecasts end here: where no memory was ever released, a wait for it has no end."""

FORECASTS = ("ttft_s", "own_latency_s", "delay_of_others_s", "marginal_latency_s", "crowded_latency_s")
"""The fourth is the sum of the two before it. The fifth, which no router has, counts all who wait as decoding
beside the request, and of the others' delay only that by its prefill: under a light load, where whoever
finishes is not replaced at once, marginal latency makes too much of how it slows others down (ours).
"""


def forecasts(request: Tensor, replicas: Tensor, setting: Tensor) -> Tensor:
    """Seconds (B, R, 5), in the order FORECASTS, of raw `request`, `replicas` (B, R, .) and `setting`."""

    def told(column: int) -> Tensor:
        return setting[:, column, None]

    def seen(column: int) -> Tensor:
        return replicas[..., column]

    predicted = request[:, PREDICTED_OUTPUT_TOKENS, None]
    output = torch.where(predicted > 0, predicted, told(MEAN_OUTPUT_TOKENS)).clamp(min=1.0)
    context = request[:, PROMPT_TOKENS, None] + 0.5 * output
    speed = seen(SPEED).clamp(min=1e-3)
    running = seen(RUNNING) + seen(UNSEEN_REQUESTS)
    new = request[:, PROMPT_TOKENS, None] - seen(PREFIX_HIT_TOKENS)
    tokens = seen(QUEUED_PREFILL_TOKENS) + seen(UNSEEN_PREFILL_TOKENS) + new
    decode_s = told(OVERHEAD_S) + told(S_PER_DECODE) * running
    decode_s = decode_s + told(S_PER_CONTEXT_TOKEN) * seen(DECODE_CONTEXT_TOKENS)
    longer_s = told(S_PER_DECODE) + told(S_PER_CONTEXT_TOKEN) * context
    iterations = torch.ceil(tokens / (told(TOKEN_BUDGET) - running).clamp(min=1.0))
    free = (seen(KV_TOTAL_BLOCKS) - seen(KV_USED_BLOCKS)) * told(BLOCK_SIZE)
    until_free = (tokens - free).clamp(min=0.0) / seen(KV_RELEASED_PER_ITERATION).clamp(min=1e-3)
    work_s = (iterations + until_free) * decode_s + told(S_PER_PREFILL_TOKEN) * tokens
    ttft_s = (seen(ITERATION_LEFT_S) + work_s / speed).clamp(0.0, LONGEST_S)
    own_s = ttft_s + (output - 1.0) * (decode_s + longer_s) / speed
    waits_s = told(S_PER_PREFILL_TOKEN) * new * (running + seen(WAITING))
    delay_s = (waits_s + (output - 1.0) * longer_s * running) / speed
    beside_s = told(S_PER_DECODE) * seen(WAITING) + told(S_PER_CONTEXT_TOKEN) * seen(QUEUED_PREFILL_TOKENS)
    crowded_s = own_s + ((output - 1.0) * beside_s + waits_s) / speed
    return torch.stack([ttft_s, own_s, delay_s, own_s + delay_s, crowded_s], dim=-1)
