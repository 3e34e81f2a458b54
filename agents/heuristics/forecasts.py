"""What a replica's row foretells of a request sent there: its first token, its decoding, its completion.

Ours: an iteration's seconds by a `LinearClock` (of the fleet's first replica; SPEED says how much faster
another one is), queues served in order, and as many requests running as now.
"""

import numpy as np

from servegym.costmodels.iterations.linear import LinearClock, check_clock
from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.llm.router import Array
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
)

H100_LLAMA_8B = LinearClock(6.40661e-3, 1.67597e-5, 8.91959e-6, 5.57828e-8)
"""Default: of Llama-3.1-8B on one H100, `linear_clock` of the scenario azure_conv_8xh100 (roofline)."""


def forecast_parameters(
    clock: LinearClock, token_budget: int, block_size: int, mean_output_tokens: float = 0.0
) -> Array:
    """A router's constants, float64 (7,): the first of SETTING_COLUMNS. InputError where the clock is bad."""
    check_clock(clock)
    return np.array([*clock, token_budget, block_size, mean_output_tokens], np.float64)


@kernel
def running_there(row: Array) -> float:
    """Requests running, and those on their way to a replica whose old state is seen."""
    requests: float = row[RUNNING] + row[UNSEEN_REQUESTS]
    return requests


@kernel
def new_prefill_tokens(row: Array, request: Array) -> float:
    """Tokens of the request that its prefix cache does not hold."""
    tokens: float = request[PROMPT_TOKENS] - row[PREFIX_HIT_TOKENS]
    return tokens


@kernel
def output_tokens(request: Array, parameters: Array) -> float:
    """The predicted output, or the mean where nothing is predicted; at least 1."""
    predicted = request[PREDICTED_OUTPUT_TOKENS]
    return max(1.0, predicted if predicted > 0 else parameters[MEAN_OUTPUT_TOKENS])


@kernel
def decode_s(row: Array, parameters: Array, more: float, more_context: float) -> float:
    """A decode iteration of those running there and `more` others of `more_context` tokens together."""
    seconds = (
        parameters[OVERHEAD_S]
        + parameters[S_PER_DECODE] * (running_there(row) + more)
        + parameters[S_PER_CONTEXT_TOKEN] * (row[DECODE_CONTEXT_TOKENS] + more_context)
    )
    return float(seconds / row[SPEED])


@kernel
def ttft_s(row: Array, request: Array, parameters: Array) -> float:
    """Seconds until its first token.

    What is left of the iteration in flight; the queued prefill with this request's, in iterations of whose
    budget those running take a token each, and which last longer for their decodes; and, where KV blocks are
    lacking for all that is queued, the iterations until so many tokens are released at the rate so far
    (infinitely many where nothing was released yet).
    """
    tokens = row[QUEUED_PREFILL_TOKENS] + row[UNSEEN_PREFILL_TOKENS] + new_prefill_tokens(row, request)
    decoding_s = decode_s(row, parameters, 0.0, 0.0)
    iterations = np.ceil(tokens / max(1.0, parameters[TOKEN_BUDGET] - running_there(row)))
    seconds = row[ITERATION_LEFT_S] + iterations * decoding_s
    seconds += parameters[S_PER_PREFILL_TOKEN] * tokens / row[SPEED]
    free = (row[KV_TOTAL_BLOCKS] - row[KV_USED_BLOCKS]) * parameters[BLOCK_SIZE]
    if tokens > free:
        released = row[KV_RELEASED_PER_ITERATION]
        seconds += (tokens - free) / released * decoding_s if released > 0 else np.inf
    return float(seconds)


@kernel
def completion_s(row: Array, request: Array, parameters: Array) -> float:
    """Seconds until its last token: the first, then a decode iteration with one more for each other."""
    output = output_tokens(request, parameters)
    context = request[PROMPT_TOKENS] + 0.5 * output  # in the mean over its iterations
    return ttft_s(row, request, parameters) + (output - 1.0) * decode_s(row, parameters, 1.0, context)
