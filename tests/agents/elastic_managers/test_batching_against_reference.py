"""Batches found quickly are those found by trying all, also where rounding decides between equal ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servegym.agents.elastic_managers.batching import (
    BATCH_COLUMNS,
    find_batches,
    integers_for_batching,
    reals_for_batching,
)
from servegym.costmodels.native.jit import jit
from servegym.envs.sim.elastic.fleet import ElasticFleet
from tests.conftest import examples
from tests.envs.sim.elastic.random_cases import random_cost
from tests.reference.elastic.fleet import Fleet
from tests.reference.elastic.managers.batching import batching
from tests.reference.elastic.request import Request

Batches = list[tuple[int, int, int, int]]
"""First request, requests, first instance and instances of each, from the last to the first."""


@jit
def _find(cost, per_node, lengths, free, pruned, reals, integers, batches):
    return find_batches(
        cost, per_node, lengths, lengths.size, free, free.size, pruned, False, reals, integers, batches
    )


def found(fleet: ElasticFleet, lengths: np.ndarray, free: np.ndarray, pruned: bool) -> Batches:
    """`lengths` fall, `free` falls."""
    batches = np.zeros(free.size * BATCH_COLUMNS, np.int64)
    reals = np.full(reals_for_batching(lengths.size, free.size), np.nan)
    integers = np.full(integers_for_batching(lengths.size, free.size), -7, np.int64)
    number = _find(fleet.cost, fleet.instances_per_node, lengths, free, pruned, reals, integers, batches)
    return [tuple(row) for row in batches.reshape(-1, BATCH_COLUMNS)[:number].tolist()]


def expected(settings: ElasticFleet, lengths: np.ndarray, free: np.ndarray) -> Batches:
    """The reference's, on instances `0, 1, ...` that others have left so much room on."""
    fleet = Fleet(settings)
    for instance, room in enumerate(free.tolist()):
        if room < settings.kv_tokens:
            fleet.kv[-1 - instance, instance] = settings.kv_tokens - room
    requests = [Request(index, 0.0, int(length), 1) for index, length in enumerate(lengths)]
    return [
        (batch.requests[0].index, len(batch.requests), batch.instances[0], len(batch.instances))
        for batch in batching(fleet, requests, fleet.instances)
    ]


def random_problem(seed: int) -> tuple[ElasticFleet, np.ndarray, np.ndarray]:
    """Up to 60 requests: all equal, of a few lengths, or any; pools partly full."""
    rng = np.random.default_rng(seed)
    instances, kv_tokens = int(rng.integers(1, 9)), int(rng.choice([100, 5000, 100_000]))
    per_node = int(rng.integers(1, instances + 1))
    cost = random_cost(rng, instances, kv_tokens, bool(rng.integers(2)))
    fleet = ElasticFleet(instances, kv_tokens, per_node, cost)
    free = np.where(
        rng.random(instances) < rng.random(), rng.integers(1, kv_tokens + 1, instances), kv_tokens
    )
    free = np.sort(free)[::-1].copy()
    count = int(rng.integers(1, 61))
    kind, typical = rng.integers(3), kv_tokens * float(rng.choice([0.01, 0.1, 1]))
    if kind == 0:
        lengths = np.full(count, rng.integers(1, 20))
    elif kind == 1:
        lengths = rng.choice(rng.integers(1, 2 + int(typical), 3), count)
    else:
        lengths = 1 + (typical * rng.lognormal(-1, 1, count)).astype(int)
    lengths = lengths[np.cumsum(lengths) <= free.sum()]
    if lengths.size == 0:
        lengths = free[:1]
    return fleet, np.sort(lengths)[::-1].astype(np.int64), free.astype(np.int64)


@pytest.mark.parametrize("pruned", (False, True))
@given(seed=st.integers(0, 2**63 - 1))
@examples(120)
def test_equal_on_random_problems(pruned: bool, seed: int) -> None:
    """Sizes and places of all batches."""
    problem = random_problem(seed)
    assert found(*problem, pruned) == expected(*problem)


def test_random_problems_are_worth_comparing() -> None:
    """Many requests, and several batches of them."""
    problems = [random_problem(seed) for seed in range(200)]
    assert np.mean([lengths.size > 16 for _, lengths, _ in problems]) > 0.4
    assert np.mean([len(found(*problem, True)) > 2 for problem in problems]) > 0.3
