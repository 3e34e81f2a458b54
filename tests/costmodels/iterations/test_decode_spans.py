"""Closed forms of many decode iterations against sums of one at a time, on random tables."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.costmodels.iterations.cost import (
    IterationCost,
    decode_attention_seconds,
    decode_seconds,
    validate_iteration_cost,
)
from servegym.costmodels.iterations.decode_spans import (
    decode_iterations_within,
    decode_line,
    decode_lines,
    decode_span_seconds,
)
from tests.conftest import examples

MAX_DECODES = 6


@st.composite
def costs(draw) -> IterationCost:
    """Any valid table of decode attention: not convex, not monotone, knots whole or not, 1 to 6 of them."""
    gaps = draw(st.lists(st.one_of(st.integers(1, 400), st.floats(0.3, 90.0)), min_size=1, max_size=6))
    knots = np.cumsum(np.array(gaps, dtype=np.float64)) - draw(st.sampled_from([0.0, float(gaps[0])]))
    seconds = st.one_of(st.just(0.0), st.floats(1e-6, 1e-2))
    table = np.array([[draw(seconds) for _ in knots] for _ in range(MAX_DECODES + 1)])
    if len(knots) > 1:
        table[:, -1] = np.maximum(table[:, -1], table[:, -2])  # may not sink after the last knot
        slope = (table[:, 1] - table[:, 0]) / (knots[1] - knots[0])
        table[:, 0] = np.where(
            slope * knots[0] > table[:, 0], table[:, 1], table[:, 0]
        )  # nor before the first
    cost = IterationCost(
        overhead_s=draw(st.floats(1e-4, 1e-2)),
        linear_s=np.linspace(0.0, 1e-3, MAX_DECODES + 1),
        communication_s=np.linspace(0.0, 3e-4, MAX_DECODES + 1),
        lm_head_s=np.linspace(1e-5, 2e-4, MAX_DECODES + 1),
        sampler_s=np.linspace(0.0, 1e-4, MAX_DECODES + 1) ** 2,
        prefill_chunk_knots=np.ones(1),
        prefill_history_knots=np.zeros(1),
        prefill_s_per_pair=np.zeros((1, 1)),
        decode_kv_knots=knots,
        decode_attention_s=table,
        mixed_decode_attention_s=np.zeros_like(table),
        mixed_s_per_pair=0.0,
    )
    validate_iteration_cost(cost)
    return cost


def attention_by_definition(cost: IterationCost, decodes: int, kv: float) -> float:
    knots, row = cost.decode_kv_knots, cost.decode_attention_s[decodes]
    if len(knots) == 1:
        return row[0]
    j = min(max(int(np.searchsorted(knots, kv, side="right")) - 1, 0), len(knots) - 2)
    share = (kv - knots[j]) / (knots[j + 1] - knots[j])
    return row[j] * (1 - share) + row[j + 1] * share


def iteration_by_definition(cost: IterationCost, decodes: int, kv: float) -> float:
    tables = (cost.linear_s, cost.communication_s, cost.lm_head_s, cost.sampler_s)
    return cost.overhead_s + sum(t[decodes] for t in tables) + attention_by_definition(cost, decodes, kv)


decodes_ = st.integers(1, MAX_DECODES)
kvs = st.one_of(st.integers(0, 30), st.integers(0, 3000))


@examples(200)
@given(costs(), decodes_, kvs)
def test_one_iteration_follows_the_definition(cost, decodes, kv):
    assert decode_attention_seconds(cost, 0, kv) == 0.0
    expected = attention_by_definition(cost, decodes, kv)
    assert decode_attention_seconds(cost, decodes, kv) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    whole = iteration_by_definition(cost, decodes, kv)
    assert decode_seconds(cost, decodes, kv) == pytest.approx(whole, rel=1e-12, abs=1e-12)


@examples(300)
@given(costs(), decodes_, kvs, st.integers(0, 500))
def test_span_is_the_sum_of_its_iterations(cost, decodes, kv, count):
    one_by_one = math.fsum(iteration_by_definition(cost, decodes, kv + i * decodes) for i in range(count))
    assert decode_span_seconds(decode_lines(cost), decodes, kv, count) == pytest.approx(one_by_one, rel=1e-11)


@examples(200)
@given(costs(), decodes_, kvs, st.integers(1, 400), st.integers(0, 400))
def test_spans_add_up_and_grow(cost, decodes, kv, first, then):
    whole = decode_span_seconds(decode_lines(cost), decodes, kv, first + then)
    parts = decode_span_seconds(decode_lines(cost), decodes, kv, first)
    parts += decode_span_seconds(decode_lines(cost), decodes, kv + first * decodes, then)
    assert whole == pytest.approx(parts, rel=1e-11)
    assert decode_span_seconds(decode_lines(cost), decodes, kv, first) > decode_span_seconds(
        decode_lines(cost), decodes, kv, first - 1
    )


@examples(400)
@given(costs(), decodes_, kvs, st.integers(1, 500), st.floats(0.0, 1.2))
def test_inverse_is_exact(cost, decodes, kv, limit, share):
    seconds = share * decode_span_seconds(decode_lines(cost), decodes, kv, limit)
    n, span_s, next_s, segment, left = decode_iterations_within(
        decode_lines(cost), decodes, kv, limit, seconds
    )
    assert 0 <= n <= limit
    assert span_s == decode_span_seconds(decode_lines(cost), decodes, kv, n)
    assert span_s <= seconds
    if n < limit:
        assert decode_span_seconds(decode_lines(cost), decodes, kv, n + 1) > seconds
        assert next_s == pytest.approx(decode_seconds(cost, decodes, kv + n * decodes), rel=1e-11)
    assert 0 <= left <= max(0, limit - n - 1)
    for more in (1, left // 2, left):
        if 0 < more <= left:
            then_s = decode_seconds(cost, decodes, kv + (n + more) * decodes)
            found_s, _ = decode_line(decode_lines(cost), decodes, segment, float(kv + (n + more) * decodes))
            assert found_s == pytest.approx(then_s, rel=1e-11)
    after = cost.decode_kv_knots[cost.decode_kv_knots > kv + n * decodes]
    if n < limit and after.size < 2:  # on the last line
        assert left == limit - n - 1


@examples(400)
@given(costs(), decodes_, kvs, st.integers(1, 500), st.data())
def test_inverse_at_the_very_end_of_an_iteration(cost, decodes, kv, limit, data):
    n = data.draw(st.integers(1, limit))
    end_s = decode_span_seconds(decode_lines(cost), decodes, kv, n)
    assert decode_iterations_within(decode_lines(cost), decodes, kv, limit, end_s)[:2] == (n, end_s)
    just_before = decode_iterations_within(decode_lines(cost), decodes, kv, limit, math.nextafter(end_s, 0.0))
    assert just_before[:2] == (n - 1, decode_span_seconds(decode_lines(cost), decodes, kv, n - 1))


@given(costs(), decodes_, kvs)
def test_inverse_without_time_or_without_end(cost, decodes, kv):
    for seconds in (0.0, -1.0, -math.inf, math.nan):
        assert decode_iterations_within(decode_lines(cost), decodes, kv, 10, seconds)[:2] == (0, 0.0)
    assert decode_iterations_within(decode_lines(cost), decodes, kv, 0, 1.0) == (0, 0.0, 0.0, 0, 0)
    for limit in (10, 2**40, 2**62):
        n, span_s, *_ = decode_iterations_within(decode_lines(cost), decodes, kv, limit, math.inf)
        assert (n, span_s) == (limit, decode_span_seconds(decode_lines(cost), decodes, kv, limit))
    n, *_ = decode_iterations_within(decode_lines(cost), decodes, kv, 2**62, 1.0)
    assert n == decode_iterations_within(decode_lines(cost), decodes, kv, 2**31, 1.0)[0]


def test_span_of_a_growing_cache_by_hand():
    # 3 decodes that hold 100 tokens: 1 s + 0.01 s a KV token, so 2, 2.03, 2.06, 2.09 s
    cost = linear_iteration_cost(
        max_num_batched_tokens=8, max_num_seqs=4, overhead_s=1.0, per_kv_token_s=0.01
    )
    assert decode_span_seconds(decode_lines(cost), 3, 100, 4) == pytest.approx(8.18)
    assert decode_iterations_within(decode_lines(cost), 3, 100, 9, 6.1) == pytest.approx(
        (3, 6.09, 2.09, 0, 5)
    )


def test_whole_seconds_end_on_time():
    cost = linear_iteration_cost(max_num_batched_tokens=1, max_num_seqs=1, overhead_s=1.0)
    assert decode_iterations_within(decode_lines(cost), 1, 5, 10**9, 1e6)[:3] == (10**6, 1e6, 1.0)
    just_before = decode_iterations_within(decode_lines(cost), 1, 5, 10**9, 1e6 - 0.5)
    assert just_before[:3] == (10**6 - 1, 1e6 - 1, 1.0)
