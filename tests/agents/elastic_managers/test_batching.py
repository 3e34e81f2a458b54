"""The dynamic program of batching: against all partitions, and its fast form against the exhaustive one."""

import itertools

import numpy as np
import pytest

from servegym.agents.elastic_managers.batching import (
    BATCH_COLUMNS,
    FEW,
    FIRST_INSTANCE,
    FIRST_REQUEST,
    NUM_INSTANCES,
    NUM_REQUESTS,
    find_batches,
    integers_for_batching,
    reals_for_batching,
)
from servegym.costmodels.elastic.cost import ElasticCost, linear_elastic_cost
from servegym.costmodels.native.jit import jit
from servegym.costmodels.native.structs import struct
from tests.envs.sim.elastic.fleets import iteration

Batches = list[tuple[int, int, int, int]]


@jit
def _call(cost, per_node, lengths, free, pruned, one, reals, integers, batches):
    return find_batches(
        cost, per_node, lengths, lengths.size, free, free.size, pruned, one, reals, integers, batches
    )


def batches_of(
    cost: ElasticCost,
    per_node: int,
    lengths: np.ndarray,
    free: np.ndarray,
    *,
    pruned: bool = True,
    one_batch: bool = False,
) -> Batches:
    """First request and number of requests, first instance and number of instances, the last batch first."""
    room = np.zeros(free.size * BATCH_COLUMNS, np.int64)
    found = _call(
        struct(cost._replace(iteration=struct(cost.iteration))),
        per_node,
        lengths,
        free,
        pruned,
        one_batch,
        np.zeros(reals_for_batching(lengths.size, free.size)),
        np.zeros(integers_for_batching(lengths.size, free.size), np.int64),
        room,
    )
    rows = room.reshape(-1, BATCH_COLUMNS)[:found]
    return [tuple(map(int, row)) for row in rows]


def value_of(cost: ElasticCost, per_node: int, lengths: np.ndarray, batches: Batches) -> float:
    """The sum of input latencies a token."""
    total = 0.0
    for batch in batches:
        own = lengths[batch[FIRST_REQUEST] :][: batch[NUM_REQUESTS]]
        degree = batch[NUM_INSTANCES]
        constant, per_token, per_square = cost.prefill_s[int(degree > per_node), degree]
        total += (constant + per_token * own.sum() + per_square * (own**2).sum()) * (1 / own).sum()
    return total


def random_problem(
    rng: np.random.Generator, most: int, instances: int
) -> tuple[ElasticCost, int, np.ndarray, np.ndarray]:
    """Lengths that fall, many of them equal, and instances that may be too full."""
    cost = linear_elastic_cost(
        instances,
        iteration=iteration(),
        constant_s=float(rng.choice([0, 1e-3, 0.02, 0.2])),
        per_token_s=float(10 ** rng.uniform(-6, -2)),
        per_token_squared_s=float(rng.choice([0, 1]) * 10 ** rng.uniform(-10, -4)),
    )
    if rng.random() < 0.5:
        prefill_s = cost.prefill_s.copy()
        prefill_s[:, 1:] *= rng.uniform(0.5, 2, prefill_s[:, 1:].shape)
        cost = cost._replace(prefill_s=prefill_s)
    count = int(rng.integers(1, most + 1))
    drawn = (
        rng.integers(1, 2000, count),
        np.full(count, int(rng.integers(1, 500))),
        np.exp(rng.normal(6, 2, count)).astype(np.int64) + 1,
        rng.choice([10, 20, 1000], count),
    )
    lengths = np.sort(drawn[rng.integers(4)])[::-1].astype(np.int64)
    pool = int(lengths.sum() * rng.choice([0.2, 0.5, 1, 3])) + 1
    free = np.where(rng.random(instances) < 0.5, pool, rng.integers(0, pool, instances))
    return cost, int(rng.choice([1, 2, 8])), lengths.copy(), np.sort(free)[::-1].astype(np.int64).copy()


def cuts(total: int, parts: int) -> itertools.combinations:
    return itertools.combinations(range(1, total), parts - 1)


def best_of_all(cost: ElasticCost, per_node: int, lengths: np.ndarray, free: np.ndarray) -> float:
    """By trying every partition of the requests, and of every number of instances."""
    best = np.inf
    for used in range(1, free.size + 1):
        for parts in range(1, min(used, lengths.size) + 1):
            for by_request, by_instance in itertools.product(cuts(lengths.size, parts), cuts(used, parts)):
                ends, degrees = (0, *by_request, lengths.size), (0, *by_instance, used)
                batches = [
                    (ends[k], ends[k + 1] - ends[k], degrees[k], degrees[k + 1] - degrees[k])
                    for k in range(parts)
                ]
                if all(
                    lengths[first : first + count].sum() <= free[start : start + degree].sum()
                    for first, count, start, degree in batches
                ):
                    best = min(best, value_of(cost, per_node, lengths, batches))
    return best


@pytest.mark.parametrize("seed", range(60))
def test_the_best_of_all_partitions(seed: int) -> None:
    cost, per_node, lengths, free = random_problem(np.random.default_rng(seed), 7, 1 + seed % 4)
    batches = batches_of(cost, per_node, lengths, free, pruned=False)
    best = best_of_all(cost, per_node, lengths, free)
    if not batches:
        assert best == np.inf
        return
    assert value_of(cost, per_node, lengths, batches) == pytest.approx(best, rel=1e-12)
    _check(batches, lengths, free)


def _check(batches: Batches, lengths: np.ndarray, free: np.ndarray) -> None:
    """Every request is in one batch, which has room, and instances are shared by none."""
    end, used = 0, 0
    for batch in reversed(batches):
        assert (batch[FIRST_REQUEST], batch[FIRST_INSTANCE]) == (end, used)
        tokens = lengths[end : end + batch[NUM_REQUESTS]].sum()
        assert tokens <= free[used : used + batch[NUM_INSTANCES]].sum()
        end, used = end + batch[NUM_REQUESTS], used + batch[NUM_INSTANCES]
    assert end == lengths.size
    assert used <= free.size


@pytest.mark.parametrize("seed", range(20))
def test_one_batch_is_the_best_of_all_requests_together(seed: int) -> None:
    cost, per_node, lengths, free = random_problem(np.random.default_rng(seed), 7, 1 + seed % 4)
    whole = [
        (0, lengths.size, 0, used) for used in range(1, free.size + 1) if lengths.sum() <= free[:used].sum()
    ]
    batches = batches_of(cost, per_node, lengths, free, one_batch=True)
    if not whole:
        assert batches == []
        return
    assert batches in [[batch] for batch in whole]
    best = min(value_of(cost, per_node, lengths, [batch]) for batch in whole)
    assert value_of(cost, per_node, lengths, batches) == pytest.approx(best, rel=1e-12)


@pytest.mark.compiled
def test_the_fast_form_finds_the_same_batches() -> None:
    """All of them, where many are equal but for rounding."""
    num_cases, several = 600, 0
    for seed in range(num_cases):
        cost, per_node, lengths, free = random_problem(np.random.default_rng(seed), 100, 1 + seed % 8)
        every = batches_of(cost, per_node, lengths, free, pruned=False)
        assert batches_of(cost, per_node, lengths, free, pruned=True) == every, seed
        several += lengths.size > FEW and len(every) > 1
    assert several > num_cases / 4
