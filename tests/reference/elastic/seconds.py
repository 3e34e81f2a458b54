"""How long things take, from the tables of an `ElasticCost`."""

from collections.abc import Mapping, Sequence
from typing import Any


def prefill_s(cost: Any, crosses: bool, instances: int, sum_tokens: int, sum_squares: int) -> float:
    """T = A + B * S1 + C * S2."""
    a, b, c = (float(value) for value in cost.prefill_s[int(crosses)][instances])
    return a + b * sum_tokens + c * sum_squares


def decode_s(cost: Any, crosses: bool, minibatches: Sequence[int], kv: Mapping[int, int]) -> float:
    """Of requests split into `minibatches`; `kv` are the group's KV tokens by member, with the new ones."""
    if cost.decode_s > 0:
        return float(cost.decode_s)
    requests = sum(minibatches)
    step = step_s(cost.iteration, max(minibatches))
    attention = max(attention_s(cost.iteration, requests, tokens) for tokens in kv.values() if tokens > 0)
    exchange = float(cost.exchange_s[int(crosses)][requests]) if len(kv) > 1 else 0.0
    return step + attention + exchange


def migrate_s(cost: Any, crosses: bool, tokens: int) -> float:
    """Of KV tokens from one instance to another."""
    return float(cost.migrate_latency_s[int(crosses)]) + tokens * float(
        cost.migrate_s_per_token[int(crosses)]
    )


def step_s(iteration: Any, requests: int) -> float:
    """An iteration of decodes without their attention."""
    seconds = float(iteration.overhead_s)
    seconds += float(iteration.linear_s[requests])
    seconds += float(iteration.communication_s[requests])
    seconds += float(iteration.lm_head_s[requests])
    seconds += float(iteration.sampler_s[requests])
    return seconds


def attention_s(iteration: Any, requests: int, kv_tokens: int) -> float:
    """Linear between the knots; the outer segments are continued."""
    knots = [float(knot) for knot in iteration.decode_kv_knots]
    values = [float(value) for value in iteration.decode_attention_s[requests]]
    if len(knots) == 1:
        return values[0]
    segment = 0
    while segment < len(knots) - 2 and knots[segment + 1] <= kv_tokens:
        segment += 1
    slope = (values[segment + 1] - values[segment]) / (knots[segment + 1] - knots[segment])
    return values[segment] + slope * (kv_tokens - knots[segment])
