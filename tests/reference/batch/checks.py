"""What must hold after any simulation, counted from scratch."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from tests.reference.batch.fleet import Fleet
from tests.reference.batch.request import DROPPED, GOOD, LATE, UNSERVED, Request
from tests.reference.batch.results import BatchResults


def check_end(fleet: Fleet, requests: Sequence[Request], results: BatchResults) -> None:
    """Requests end exactly once, GPUs run one batch at a time, times add up."""
    check_requests(fleet, requests)
    check_gpus(fleet, results)
    check_batches(fleet)


def check_requests(fleet: Fleet, requests: Sequence[Request]) -> None:
    """Each is in one batch that has ended, dropped, or waits still; good and late as the deadline says."""
    places = Counter(r.index for batch in fleet.batches for r in batch.requests)
    places.update(r.index for r in requests if r.outcome == DROPPED)
    places.update(r.index for queue in fleet.queues for r in queue)
    assert places == Counter(range(len(requests))), "a request is nowhere, or in two places"
    assert Counter(r.index for r in fleet.ended) == Counter(
        r.index for r in requests if r.outcome != UNSERVED
    ), "a request ended twice, or never"
    for request in requests:
        assert (request.batch is not None) == (request.outcome in (GOOD, LATE)), "a batch got lost"
        if request.batch:
            met = request.batch.end_s <= request.deadline_s + 1e-9
            assert met == (request.outcome == GOOD), "good and late are confused"
            assert request.batch.start_s >= request.arrival_s, "served before it came"


def check_gpus(fleet: Fleet, results: BatchResults) -> None:
    """One batch runs at a time and one more waits at most; busy within used time."""
    for gpu in fleet.gpus:
        assert not gpu.held, "a batch never ended"
        batches = [batch for batch in fleet.batches if batch.gpu == gpu.number]
        for before, after in pairwise(batches):
            assert after.start_s >= before.end_s, "two batches at once"
        for first, third in zip(batches, batches[2:], strict=False):
            assert third.sent_s >= first.end_s, "three batches held"
        busy = sum(batch.end_s - batch.start_s for batch in batches)
        assert np.isclose(results.gpu_busy_s[gpu.number], busy, rtol=1e-9), "busy time does not add up"
        assert busy <= results.gpu_used_s[gpu.number] + 1e-9, "busy while not in use"
        assert results.gpu_used_s[gpu.number] <= results.duration_s + 1e-9, "in use before or after"
        if fleet.memory:
            assert fleet.memory.held_bytes(gpu) <= fleet.memory.capacity_bytes, "over the memory"


def check_batches(fleet: Fleet) -> None:
    """Of one model, no larger than allowed, in order of arrival, not before their data can be there."""
    for batch in fleet.batches:
        assert 1 <= batch.size <= fleet.largest(batch.model), "batch size"
        assert all(r.model == batch.model for r in batch.requests), "two models in a batch"
        assert batch.start_s >= batch.sent_s + fleet.lead(batch.size), "before its data"
        assert batch.end_s == batch.start_s + fleet.latency(batch.model, batch.size), "l(b)"
        indices = [r.index for r in batch.requests]
        assert indices == sorted(indices), "out of order"
