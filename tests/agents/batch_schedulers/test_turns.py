"""TF-Serving's and Triton's rules, by hand."""

import pytest

from servegym.envs.sim.batch.state import GOOD, LATE
from tests.agents.batch_schedulers.clusters import Batches, model_of, serve


def _served(
    scheduler: str, num_models: int, requests: list[tuple[float, int]], **parameters: object
) -> Batches:
    return serve(scheduler, [model_of(10)] * num_models, 1, requests, **parameters)[1]


def test_tf_serving_waits_for_others_until_its_timeout() -> None:
    requests = [(0.0, 0), (0.5, 0), (2.0, 0)]
    assert _served("tf_serving", 1, requests, timeout_s=1.0) == [(1, 0, 0, 2), (4, 0, 0, 1)]


def test_tf_serving_sends_a_full_batch_at_once() -> None:
    requests = [(0.0, 0), (0.5, 0), (0.6, 0)]
    assert _served("tf_serving", 1, requests, timeout_s=1.0, max_batch=2) == [(0.5, 0, 0, 2), (3.5, 0, 0, 1)]


def test_tf_serving_takes_by_default_batches_of_half_the_objective() -> None:
    """Of 10 s, 5: four requests."""
    requests = [(0.1 * i, 0) for i in range(5)]
    assert _served("tf_serving", 1, requests, timeout_s=5.0)[0] == (pytest.approx(0.3), 0, 0, 4)


def test_tf_serving_takes_models_in_turns() -> None:
    """From the one after the last taken, whoever is older or longer."""
    requests = [(0.0, 1), (0.1, 0), (0.2, 0), (0.3, 1), (0.4, 2)]
    assert _served("tf_serving", 3, requests, timeout_s=0.0) == [
        (0, 1, 0, 1),
        (2, 2, 0, 1),
        (4, 0, 0, 2),
        (7, 1, 0, 1),
    ]


def test_nobody_is_dropped() -> None:
    results, _ = serve("tf_serving", [model_of(3)], 1, [(0, 0), (0, 0)], timeout_s=0.0)
    assert list(results.outcome) == [GOOD, LATE]


def test_triton_sends_at_once_what_waits() -> None:
    assert _served("triton", 1, [(0.0, 0), (0.5, 0), (1.0, 0)]) == [(0, 0, 0, 1), (2, 0, 0, 2)]


def test_triton_waits_for_the_largest_preferred_size() -> None:
    """At 2 one of 2 could be sent, but 4 are preferred, for which there is time until 3."""
    requests = [(0.0, 0), (1.0, 0), (2.5, 0), (2.75, 0), (2.9, 0)]
    batches = _served("triton", 1, requests, preferred=(2, 4), max_queue_delay_s=3.0)
    assert batches == [(2.75, 0, 0, 4), (7.75, 0, 0, 1)]


def test_triton_sends_a_smaller_preferred_size_after_the_delay_or_what_there_is() -> None:
    requests = [(0.0, 0), (1.0, 0), (1.5, 0)]
    batches = _served("triton", 1, requests, preferred=(2, 4), max_queue_delay_s=3.0)
    assert batches == [(3, 0, 0, 2), (6, 0, 0, 1)]
    batches = _served("triton", 1, requests, preferred=(4,), max_queue_delay_s=3.0)
    assert batches == [(3, 0, 0, 3)]


def test_triton_ignores_preferred_sizes_above_the_largest_batch() -> None:
    requests = [(0.0, 0), (1.0, 0), (1.5, 0)]
    batches = _served("triton", 1, requests, preferred=(2, 4), max_queue_delay_s=3.0, max_batch=3)
    assert batches[0] == (1, 0, 0, 2)


def test_who_has_waited_is_served_at_whatever_happens_first_at_that_instant() -> None:
    """At 1 an arrival of model 0 finds model 1 ready, though its timer is still to fire."""
    requests = [(0.0, 1), (1.0, 0), (1.0, 0)]
    _, batches = serve("tf_serving", [model_of(10)] * 2, 2, requests, timeout_s=1.0, max_batch=2)
    assert batches == [(1, 1, 0, 1), (1, 0, 1, 2)]
