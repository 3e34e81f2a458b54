"""The least that an iteration can take, given some of the steps in its batch."""

from typing import NamedTuple

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.costmodels.iterations.cost import Floats, IterationCost, segment_of
from servegym.costmodels.native.jit import kernel
from servegym.envs.sim.llm.engine import Engine


class LeastTimes(NamedTuple):
    """A floor under `IterationCost` that never falls as a batch grows; seconds.

    Let `T(batch)` be the time of an iteration and `t(steps)` what these tables give, by the same formula,
    for steps that are part of it. Every table is the least of the cost's over all larger indices, so
    `T(batch) >= t(steps)` for any steps in the batch, whether or not the cost is monotone; where it is,
    `t(batch) = T(batch)` but for prefill attention and `prefill_overhead_s`.
    With T = max_num_batched_tokens, M = max_num_seqs:
    """

    step_s: Floats  # (T + 1,) overhead, linear layers, communication, by tokens in the batch
    sampled_s: Floats  # (M + 1,) LM head and sampler, by tokens sampled
    s_per_pair: float  # prefill attention: the least entry of the table
    kv_knots: Floats  # (K,) from 0 to the tokens that the KV cache holds
    decode_s: Floats  # (M + 1, K) decode attention, at most mixed_s: prefill chunks may have been beside
    mixed_s: Floats  # (M + 1, K) decode attention beside prefill chunks
    mixed_s_per_pair: float


def least_times(cost: IterationCost, engine: Engine) -> LeastTimes:
    """Raises `InputError` where the cost does not cover the batches that the engine may make."""
    tokens, seqs = engine.max_num_batched_tokens, min(engine.max_num_seqs, engine.max_num_batched_tokens)
    for name, needed in (("linear_s", tokens), ("lm_head_s", seqs)):
        covered = getattr(cost, name).size - 1
        if covered < needed:
            raise InputError(f"IterationCost.{name} covers {covered}, the engine's batches go up to {needed}")
    capacity = float(engine.num_kv_blocks * engine.block_size)
    inner = cost.decode_kv_knots[(cost.decode_kv_knots > 0) & (cost.decode_kv_knots < capacity)]
    knots = np.concatenate([[0.0], inner, [capacity]])
    decode_s, mixed_s = (
        _floor(_at(table, cost.decode_kv_knots, knots)[: seqs + 1])
        for table in (cost.decode_attention_s, cost.mixed_decode_attention_s)
    )
    return LeastTimes(
        step_s=_floor((cost.overhead_s + cost.linear_s + cost.communication_s)[: tokens + 1]),
        sampled_s=_floor((cost.lm_head_s + cost.sampler_s)[: seqs + 1]),
        s_per_pair=float(cost.prefill_s_per_pair.min()),
        kv_knots=knots,
        decode_s=np.minimum(decode_s, mixed_s),
        mixed_s=mixed_s,
        mixed_s_per_pair=cost.mixed_s_per_pair,
    )


def _at(table: Floats, knots: Floats, kv_tokens: Floats) -> Floats:
    """Decode attention at `kv_tokens`, by its rows: the cost's own formula, on other knots."""
    if knots.size == 1:
        return np.repeat(table, kv_tokens.size, axis=1)
    segment = np.clip(np.searchsorted(knots, kv_tokens, side="right") - 1, 0, knots.size - 2)
    slope = (table[:, segment + 1] - table[:, segment]) / (knots[segment + 1] - knots[segment])
    attention: Floats = table[:, segment] + slope * (kv_tokens - knots[segment])
    return attention


def _floor(table: Floats) -> Floats:
    """The least over this and all larger indices, on every axis; the row of no decodes is 0.

    On knots: between two of them a line through the least of either is no higher than any of the lines.
    """
    floor = table
    for axis in range(table.ndim):
        floor = np.flip(np.minimum.accumulate(np.flip(floor, axis), axis), axis)
    if table.ndim == 2:
        floor = np.maximum(floor, 0.0)
        floor[0] = 0.0
    return np.ascontiguousarray(floor)


@kernel
def attention_seconds(table: Floats, knots: Floats, num_decodes: int, kv_tokens: float) -> float:
    """Decode attention from `decode_s` or `mixed_s`; `kv_tokens` from 0 to the capacity."""
    segment = segment_of(knots, kv_tokens)
    start_s = table[num_decodes, segment]
    slope = (table[num_decodes, segment + 1] - start_s) / (knots[segment + 1] - knots[segment])
    attention_s: float = start_s + slope * (kv_tokens - knots[segment])
    return attention_s
