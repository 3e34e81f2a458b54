"""Clockwork's rule, by hand."""

from servegym.envs.sim.batch.state import DROPPED, GOOD
from tests.agents.batch_schedulers.clusters import model_of, serve


def test_the_batch_that_must_start_first_goes_first() -> None:
    """Though the other model's request is older."""
    _, batches = serve("clockwork", [model_of(20), model_of(10)], 1, [(0, 0), (0.5, 0), (1, 1)])
    assert batches == [(0, 0, 0, 1), (2, 1, 0, 1), (4, 0, 0, 1)]


def test_a_batch_has_one_of_the_sizes() -> None:
    """Three wait when the GPU is free: two of them go, or all where there is a size for it."""
    requests = [(0.0, 0), (0.1, 0), (0.2, 0), (0.3, 0)]
    _, batches = serve("clockwork", [model_of(50)], 1, requests)
    assert batches == [(0, 0, 0, 1), (2, 0, 0, 2), (5, 0, 0, 1)]
    _, batches = serve("clockwork", [model_of(50)], 1, requests, sizes=(1, 3))
    assert batches == [(0, 0, 0, 1), (2, 0, 0, 3)]


def test_a_batch_is_no_larger_than_its_first_request_allows() -> None:
    """At 2 the first of four, due at 5.5, has time for a batch of 2, which ends at 5, not for one of 4."""
    requests = [(0.0, 0), (0.5, 0), (0.6, 0), (0.7, 0), (0.8, 0)]
    results, batches = serve("clockwork", [model_of(5)], 1, requests)
    assert batches[1] == (2, 0, 0, 2)
    assert list(results.outcome) == [GOOD, GOOD, GOOD, DROPPED, DROPPED]


def test_who_cannot_be_in_time_is_dropped() -> None:
    """The second would have to start at 1.5, and at 2 the GPU is free."""
    results, batches = serve("clockwork", [model_of(3)], 1, [(0, 0), (0.5, 0), (1.5, 0)])
    assert batches == [(0, 0, 0, 1), (2, 0, 0, 1)]
    assert list(results.outcome) == [GOOD, DROPPED, GOOD]


def test_idle_gpus_are_taken_in_order() -> None:
    _, batches = serve("clockwork", [model_of(9)], 3, [(0, 0), (1, 0), (3, 0)])
    assert batches == [(0, 0, 0, 1), (1, 0, 1, 1), (3, 0, 0, 1)]
