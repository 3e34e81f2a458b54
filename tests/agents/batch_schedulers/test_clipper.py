"""Clipper's rule, by hand."""

from servegym.envs.sim.batch.cluster import Delays
from servegym.envs.sim.batch.state import DROPPED, GOOD, LATE
from tests.agents.batch_schedulers.clusters import model_of, serve


def test_models_have_gpus_of_their_own() -> None:
    """Model 0 has GPUs 0 and 2, model 1 has GPU 1 alone and waits for it."""
    requests = [(0.0, 1), (0.1, 1), (0.2, 0), (0.3, 0)]
    _, batches = serve("clipper", [model_of(20), model_of(20)], 3, requests)
    assert batches == [(0, 1, 1, 1), (0.2, 0, 0, 1), (0.3, 0, 2, 1), (2, 1, 1, 1)]


def test_models_share_gpus_that_are_fewer_oldest_first() -> None:
    """Models 0 and 2 share GPU 0."""
    requests = [(0.0, 0), (0.1, 2), (0.2, 0), (0.3, 1)]
    _, batches = serve("clipper", [model_of(20)] * 3, 2, requests)
    assert batches == [(0, 0, 0, 1), (0.3, 1, 1, 1), (2, 2, 0, 1), (4, 0, 0, 1)]


def test_full_batches_in_time_raise_the_cap() -> None:
    _, batches = serve("clipper", [model_of(50, max_batch=3)], 1, [(0.0, 0)] * 12)
    assert [size for *_, size in batches] == [1, 2, 3, 3, 3]
    _, batches = serve("clipper", [model_of(50)], 1, [(0.0, 0)] * 12, increase=2.0)
    assert [size for *_, size in batches] == [1, 3, 5, 3]


def test_a_batch_that_is_not_full_leaves_the_cap() -> None:
    """1 of 1, 1 of 2, then 2 of 2 and 3 of 3."""
    requests = [(0.0, 0), (3.0, 0), *[(6.0, 0)] * 6]
    _, batches = serve("clipper", [model_of(50)], 1, requests)
    assert [size for *_, size in batches] == [1, 1, 1, 2, 3]


def test_a_batch_that_takes_too_long_lowers_the_cap() -> None:
    """4 take 5 s, more than the objective; after that 2 of 4 may go."""
    waiting = [(0.0, 1), (1.0, 2), (4.0, 3), (8.0, 4), (13.0, 4)]  # when so many come
    requests = [(arrival_s, 0) for arrival_s, count in waiting for _ in range(count)]
    _, batches = serve("clipper", [model_of(4.4)], 1, requests, backoff=0.5)
    assert [size for *_, size in batches][:5] == [1, 2, 3, 4, 2]


def test_what_is_too_long_leaves_time_for_the_way() -> None:
    """A batch of 1 takes 2 s, and its way there and back 0.75 s: of 2.75 s that is all there is."""
    delays = Delays(control_s=0.25, response_s=0.5)
    requests = [(0.0, 0), (10.0, 0), (10.0, 0), (10.0, 0)]
    _, batches = serve("clipper", [model_of(2.75)], 1, requests, delays)
    assert [size for *_, size in batches] == [1, 1, 2]


def test_only_who_is_past_the_deadline_is_dropped() -> None:
    """At 2 all are due and go, late as they will be; at 5 one has been due for long."""
    results, batches = serve("clipper", [model_of(2)], 1, [(0, 0), (0, 0), (0, 0), (0, 0), (4, 0)])
    assert batches == [(0, 0, 0, 1), (2, 0, 0, 2), (5, 0, 0, 1)]
    assert list(results.outcome) == [GOOD, LATE, LATE, DROPPED, LATE]
