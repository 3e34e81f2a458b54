"""Shepherd's rule, by hand."""

import pytest

from servegym.envs.sim.batch.model import ServedModel
from servegym.envs.sim.batch.state import DROPPED, GOOD
from tests.agents.batch_schedulers.clusters import model_of, serve


def test_a_free_gpu_gets_the_largest_batch() -> None:
    """Though the other model's request is older and must start first."""
    requests = [(0.0, 0), (0.1, 0), (0.2, 1), (0.3, 1)]
    _, batches = serve("shepherd", [model_of(20), model_of(50)], 1, requests)
    assert batches == [(0, 0, 0, 1), (2, 1, 0, 2), (5, 0, 0, 1)]


def test_a_batch_is_no_larger_than_its_first_request_allows() -> None:
    """At 2 the first of three, due at 5.5, has time for 2 of them."""
    results, batches = serve(
        "shepherd", [model_of(5)], 1, [(0, 0), (0.5, 0), (0.6, 0), (1.7, 0)], preempt_ratio=9.0
    )
    assert batches == [(0, 0, 0, 1), (2, 0, 0, 2)]
    assert list(results.outcome) == [GOOD, GOOD, GOOD, DROPPED]


def test_a_batch_gives_way_to_one_of_another_model_three_times_as_large() -> None:
    """Of 4, 3.03 times 1; not of 3. Its request waits for the next free GPU."""
    requests = [(0.0, 0), (0.1, 1), (0.2, 1), (0.3, 1), (0.4, 1)]
    results, batches = serve("shepherd", [model_of(20), model_of(20)], 1, requests)
    assert batches == [(pytest.approx(0.4), 1, 0, 4), (pytest.approx(5.4), 0, 0, 1)]
    assert results.num_preempted == 1
    results, batches = serve("shepherd", [model_of(20), model_of(20)], 1, requests[:-1])
    assert batches == [(0, 0, 0, 1), (2, 1, 0, 3)]
    assert results.num_preempted == 0


def test_a_batch_gives_way_to_one_of_its_own_model_that_holds_it() -> None:
    """Three wait, with the one that runs they are 4; with two they would be 3."""
    requests = [(0.0, 0), (0.1, 0), (0.2, 0), (0.3, 0)]
    results, batches = serve("shepherd", [model_of(20)], 1, requests)
    assert batches == [(pytest.approx(0.3), 0, 0, 4)]
    assert results.num_preempted == 1
    _, batches = serve("shepherd", [model_of(20)], 1, requests[:-1])
    assert batches == [(0, 0, 0, 1), (2, 0, 0, 2)]


def test_a_running_request_that_could_not_start_anew_counts_for_nothing() -> None:
    """It would be too late from 1 on. So 4 others are needed, and it is dropped for them."""
    model = ServedModel("m", (2.0,) * 8, slo_s=3.0)
    requests = [(0.0, 0), (1.1, 0), (1.2, 0), (1.3, 0), (1.4, 0)]
    results, batches = serve("shepherd", [model], 1, requests)
    assert batches == [(1.4, 0, 0, 4)]
    assert list(results.outcome) == [DROPPED, GOOD, GOOD, GOOD, GOOD]
    results, batches = serve("shepherd", [model], 1, requests[:-1])
    assert batches == [(0, 0, 0, 1), (2, 0, 0, 3)]


def test_the_first_gpu_that_qualifies_is_preempted() -> None:
    """GPU 0 runs 2 requests, GPUs 1 and 2 run 1: four of another model are worth the second."""
    first = [(arrival_s, 0) for arrival_s in (0.0, 0.1, 0.2, 1.0, 1.1, 2.05, 2.15)]
    others = [(arrival_s, 1) for arrival_s in (2.3, 2.4, 2.5, 2.6)]
    results, batches = serve("shepherd", [model_of(30), model_of(30)], 3, first + others)
    assert results.num_preempted == 1
    assert (2.0, 0, 0, 2) in batches
    assert (2.6, 1, 1, 4) in batches
