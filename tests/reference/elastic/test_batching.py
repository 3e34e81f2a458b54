"""Which requests are prefilled together."""

import itertools
import math

import numpy as np
import pytest

from tests.reference.elastic.fleet import Fleet
from tests.reference.elastic.hand import UNIT_S, Settings, end, fleet_with, settings
from tests.reference.elastic.managers.batching import batching
from tests.reference.elastic.managers.times import expected_s


def answer(fleet, requests, instances):
    batches = batching(fleet, requests, instances)
    return [([r.index for r in batch.requests], batch.instances) for batch in batches]


def test_a_short_request_does_not_wait_for_a_long_one():
    """Apart: 20/16 + 6/2 = 4.25 against 13 * (1/16 + 1/2) together. The last batch comes first."""
    fleet, requests = fleet_with([(2, 2), (16, 2)], settings(2, 100))
    assert answer(fleet, requests, [0, 1]) == [([0], [1]), ([1], [0])]
    batch = batching(fleet, requests[1:], [0])[0]
    assert batch.seconds == (4 + 16) * UNIT_S


def test_equal_requests_share_all_instances_of_a_node():
    """4 of 4 tokens on two instances: together 4 + 8, two by two on one each the same, so the first stays."""
    fleet, requests = fleet_with([(4, 2)] * 4, settings(4, 100, 2))
    assert answer(fleet, requests[:2], [0, 1]) == [([1], [1]), ([0], [0])]
    assert answer(fleet, requests[:1], [0, 1]) == [([0], [0, 1])]
    assert answer(fleet, requests[:1], [0, 1, 2]) == [([0], [0, 1])]  # across nodes 16 + 4/3


def test_kv_must_have_room():
    """Instance 1, with 6 tokens, comes last, and has room for the short one only."""
    fleet, requests = fleet_with([(6, 5), (9, 1), (4, 1)], settings(3, 10))
    fleet.prefill(requests[:1], [1])
    end(fleet, 0)
    assert answer(fleet, requests[1:], [0, 1]) == [([2], [1]), ([1], [0])]
    assert answer(fleet, requests[1:], [0, 2]) == [([2], [2]), ([1], [0])]
    assert answer(fleet, [requests[2], requests[1]], [1, 2]) == [([2], [1]), ([1], [2])]


def without_structure(rng: np.random.Generator, instances: int) -> Settings:
    """Any A, B and C, so that more instances may take longer."""
    drawn = settings(instances, int(rng.integers(10, 60)), int(rng.integers(1, instances + 1)))
    tables = rng.uniform(0, 1, drawn.cost.prefill_s.shape) * [8, 1, 0.1] * UNIT_S
    return Settings(
        instances, drawn.kv_tokens, drawn.instances_per_node, drawn.cost._replace(prefill_s=tables)
    )


def compositions(total: int, parts: int) -> list[tuple[int, ...]]:
    """All ways to write `total` as a sum of so many positive numbers."""
    return [
        tuple(b - a for a, b in itertools.pairwise((0, *cuts, total)))
        for cuts in itertools.combinations(range(1, total), parts - 1)
    ]


def weighted_s(fleet: Fleet, batches) -> float:
    """What the programme minimises; inf without room."""
    total = 0.0
    for requests, instances in batches:
        if sum(r.tokens for r in requests) > sum(fleet.free(i) for i in instances):
            return math.inf
        total += expected_s(fleet, len(instances), requests) * sum(1 / r.tokens for r in requests)
    return total


def best_of_all(fleet: Fleet, requests, instances: int) -> float:
    """Over all ways to cut the requests, longest first, and the instances into as many parts."""
    ordered = sorted(requests, key=lambda r: -r.tokens)
    best = math.inf
    for used in range(1, instances + 1):
        for parts in range(1, min(used, len(ordered)) + 1):
            for sizes, degrees in itertools.product(
                compositions(len(ordered), parts), compositions(used, parts)
            ):
                one, other = iter(ordered), iter(range(used))
                batches = [
                    (list(itertools.islice(one, size)), list(itertools.islice(other, degree)))
                    for size, degree in zip(sizes, degrees, strict=True)
                ]
                best = min(best, weighted_s(fleet, batches))
    return best


@pytest.mark.parametrize("seed", range(40))
def test_no_other_batches_are_better(seed):
    rng = np.random.default_rng(seed)
    instances = int(rng.integers(1, 5))
    drawn = without_structure(rng, instances)
    lengths = rng.integers(1, 2 * drawn.kv_tokens, rng.integers(1, 6))
    lengths = lengths[np.cumsum(lengths) <= instances * drawn.kv_tokens]
    if len(lengths):
        fleet, requests = fleet_with([(int(n), 1) for n in lengths], drawn)
        found = [(batch.requests, batch.instances) for batch in batching(fleet, requests, fleet.instances)]
        best = best_of_all(fleet, requests, instances)
        assert weighted_s(fleet, found) == pytest.approx(best, rel=1e-12)
