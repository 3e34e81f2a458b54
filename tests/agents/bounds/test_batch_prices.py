"""No batch undercuts the prices of its steps, on costs without any structure."""

import numpy as np
import pytest

from servegym.agents.bounds.batch_prices import Prices, Steps, price_steps
from servegym.agents.bounds.batch_times import least_times
from servegym.costmodels.iterations.compile import linear_iteration_cost
from servegym.costmodels.iterations.cost import (
    IterationCost,
    decode_seconds,
    mixed_decode_attention_seconds,
    prefill_attention_seconds,
    step_seconds,
)
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.workloads import Workload
from tests.envs.sim.llm.test_against_reference import random_cost

WEIGHTS = [0.0, 0.5, 3.0, 20.0]


def batch_seconds(cost: IterationCost, kv: list[int], chunks: list[tuple[int, int]], sampled: int) -> float:
    """The formula of docs/simulator.md for decodes with `kv` tokens and chunks (new, computed before)."""
    if not chunks:
        return float(decode_seconds(cost, len(kv), sum(kv)))
    prefill_tokens = sum(new for new, _ in chunks)
    return float(
        step_seconds(cost, len(kv) + prefill_tokens, sampled)
        + sum(prefill_attention_seconds(cost, *chunk) for chunk in chunks)
        + mixed_decode_attention_seconds(cost, len(kv), sum(kv), prefill_tokens)
    )


def price_of(prices: Prices, kv: list[int], chunks: list[tuple[int, int]]) -> float:
    total = len(kv) * prices.decode + sum(kv) * prices.kv_token
    for new, before in chunks:
        pairs = new * before + new * (new + 1) / 2
        total += prices.chunk + new * prices.prefill_token + pairs * prices.pair
    return total


@pytest.mark.parametrize("seed", range(25))
def test_no_batch_undercuts_its_prices(seed: int) -> None:
    """Nor do the prices of some of its steps, with only these counted as members."""
    rng = np.random.default_rng(seed)
    engine = Engine(int(rng.integers(8, 40)), int(rng.integers(1, 8)), int(rng.integers(8, 40)))
    cost = random_cost(rng, engine)
    workload = Workload("w", np.arange(9.0), rng.integers(1, 50, 9), rng.integers(1, 30, 9))
    times = least_times(cost, engine)
    first, last = workload.prompt_tokens, workload.prompt_tokens + workload.output_tokens - 2
    some = np.flatnonzero(workload.output_tokens > 1)
    steps = Steps.of(workload, times)
    by_members = {members: price_steps(times, steps, members, WEIGHTS[1:]) for members in (0.0, 1.0)}
    for _ in range(300):
        num_decodes = int(rng.integers(0, engine.max_num_seqs + 1)) if some.size else 0
        of = rng.choice(some, num_decodes) if num_decodes else some[:0]
        kv = [int(rng.integers(first[i], last[i] + 1)) for i in of]
        room = min(engine.max_num_batched_tokens, engine.num_kv_blocks * 16 - sum(kv)) - num_decodes
        if room < 0:
            continue
        chunks: list[tuple[int, int]] = []
        while num_decodes + len(chunks) < engine.max_num_seqs and room > 0 and rng.random() < 0.7:
            new = int(rng.integers(1, room + 1))
            chunks.append((new, int(rng.integers(0, 50))))
            room -= new
        if not kv and not chunks:
            continue
        sampled = num_decodes + int(rng.integers(0, len(chunks) + 1))
        seconds = batch_seconds(cost, kv, chunks, sampled)
        part_kv = [each for each in kv if rng.random() < 0.7]
        part_chunks = [each for each in chunks if rng.random() < 0.7]
        for members, all_prices in by_members.items():
            for weight, prices in zip(WEIGHTS[1:], all_prices, strict=True):
                for part in ((kv, chunks), (part_kv, part_chunks)):
                    size = len(part[0]) + len(part[1])
                    allowed = (members * size + weight) * seconds
                    assert price_of(prices, *part) <= allowed * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_prices_rise_with_the_weight(seed: int) -> None:
    rng = np.random.default_rng(seed)
    engine = Engine(16, 4, 100)
    workload = Workload("w", np.arange(5.0), rng.integers(1, 50, 5), rng.integers(1, 30, 5))
    times = least_times(random_cost(rng, engine), engine)
    prices = price_steps(times, Steps.of(workload, times), 1.0, WEIGHTS)
    assert np.all(np.diff(np.array(prices), axis=0) >= 0)
    assert prices[-1].prefill_token > prices[0].prefill_token or prices[-1].decode > prices[0].decode


def test_weights_are_shared_by_the_largest_batch() -> None:
    """Overhead over all seats, and each token's own time."""
    cost = linear_iteration_cost(
        max_num_batched_tokens=16, max_num_seqs=16, overhead_s=0.8, per_token_s=0.1, per_kv_token_s=0.01
    )
    times = least_times(cost, Engine(16, 16, 1000))
    workload = Workload("w", np.zeros(20), np.full(20, 1), np.full(20, 101))
    (work,) = price_steps(times, Steps.of(workload, times), 0.0, [1.0])
    decode_s = 100 * (0.8 / 16 + 0.1) + 0.01 * np.arange(1, 101).sum()
    np.testing.assert_allclose(work.decode_s(workload), decode_s, rtol=1e-3)
    assert np.all(work.decode_s(workload) <= decode_s * (1 + 1e-9))


def test_memory_limits_what_shares_the_overhead() -> None:
    """Of a cache of 400 tokens a decode after v tokens takes (v + 1) / 400, and as much of the iteration."""
    cost = linear_iteration_cost(max_num_batched_tokens=16, max_num_seqs=16, overhead_s=0.8)
    times = least_times(cost, Engine(16, 16, 25))
    workload = Workload("w", np.zeros(20), np.full(20, 1), np.full(20, 101))
    (work,) = price_steps(times, Steps.of(workload, times), 0.0, [1.0])
    np.testing.assert_allclose(work.decode_s(workload), 0.8 / 400 * np.arange(2, 102).sum(), rtol=1e-3)


def test_sums_over_a_request_are_those_of_its_steps() -> None:
    """The cheaper of decode and recompute at each step, whichever line is the steeper one."""
    workload = Workload("w", np.zeros(3), [1, 5, 40], [1, 60, 7])
    for prices in (
        Prices(3.0, 0.1, 0.2, 0.5, 0.0),
        Prices(0.1, 0.3, 0.1, 2.0, 0.0),
        Prices(1.0, 0.2, 0.2, 0.5, 0.0),
        Prices(1.0, 0.2, 0.2, 2.5, 0.0),
    ):
        expected = [
            sum(
                min(
                    prices.decode + prices.kv_token * v,
                    prices.chunk + prices.prefill_token * (v + 1),
                )
                for v in range(prompt, prompt + output - 1)
            )
            for prompt, output in zip(workload.prompt_tokens, workload.output_tokens, strict=True)
        ]
        np.testing.assert_allclose(prices.decode_s(workload), expected, rtol=1e-12, atol=1e-12)
