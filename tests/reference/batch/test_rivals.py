"""Clockwork, Shepherd, Clipper, TF-Serving and Triton, a few batches each; `l(b) = 4 + b`."""

from tests.reference.batch.hand import batches, model, run
from tests.reference.batch.request import DROPPED, GOOD, LATE


def test_clockwork_takes_the_largest_size_that_it_has():
    results = run([0, 1, 2, 3], model(slo=30), "clockwork", sizes=(1, 2, 4))
    assert batches(results) == [(0, [0], 0, 5), (0, [1, 2], 5, 11), (0, [3], 11, 16)]


def test_clockwork_takes_a_smaller_size_that_is_in_time():
    """At 5 two would end at 11; the first must by 10.5."""
    results = run([0, 0.5, 1], model(slo=10), "clockwork", sizes=(1, 2))
    assert batches(results) == [(0, [0], 0, 5), (0, [1], 5, 10)]
    assert list(results.outcome) == [GOOD, GOOD, DROPPED]


def test_clockwork_serves_the_most_urgent_model():
    """At 5: 1 must start by 16, 2 by 13."""
    results = run([0, (1, 0), (2, 1)], [model(slo=20), model(slo=16)], "clockwork")
    assert batches(results) == [(0, [0], 0, 5), (0, [2], 5, 10), (0, [1], 10, 15)]


def test_shepherd_preempts_for_a_batch_that_is_large_enough():
    """Four of model 1 are more than 3.03 times the one of model 0, three are not."""
    results = run([0, (1, 1), (1, 1), (1, 1), (2, 1)], [model(slo=40), model(slo=40)], "shepherd")
    assert batches(results) == [(0, [1, 2, 3, 4], 2, 10), (0, [0], 10, 15)]
    assert results.num_preempted == 1


def test_shepherd_counts_a_running_batch_of_the_same_model_in():
    results = run([0, 1, 1, 2], model(slo=40), "shepherd")
    assert batches(results) == [(0, [0, 1, 2, 3], 2, 10)]


def test_shepherd_serves_the_largest_batch():
    results = run([0, (1, 0), (2, 1), (3, 1)], [model(slo=40), model(slo=40)], "shepherd")
    assert batches(results) == [(0, [0], 0, 5), (0, [2, 3], 5, 11), (0, [1], 11, 16)]


def test_shepherd_does_not_count_who_could_not_be_answered_any_more():
    """At 4 the running request, until 5.5, could not be answered anew: three, not four."""
    results = run([0, 2, 3, 4], model(slo=5.5), "shepherd", preempt_ratio=4.0)
    assert results.num_preempted == 0


def test_clipper_grows_by_one_while_batches_are_full():
    results = run([0] * 5, model(slo=60), "clipper")
    assert batches(results) == [(0, [0], 0, 5), (0, [1, 2], 5, 11), (0, [3, 4], 11, 17)]


def test_clipper_backs_off_after_a_batch_that_takes_too_long():
    """Caps 1, 2, 3, then l(3) = 7 > 6.5: 0.9 * 3; requests until 6.5 after their arrival."""
    arrivals = [0, 1, 1, 6, 6, 6, 12, 12, 12]
    results = run(arrivals, model(slo=6.5), "clipper")
    assert batches(results) == [
        (0, [0], 0, 5),
        (0, [1, 2], 5, 11),
        (0, [3, 4, 5], 11, 18),
        (0, [6, 7], 18, 24),
    ]
    assert list(results.outcome) == [GOOD, *[LATE] * 7, DROPPED]


def test_clipper_gives_every_model_its_gpus():
    """Three models on two GPUs: 0 and 2 share the first, the oldest request goes first."""
    arrivals = [(0, 0), (1, 1), (2, 2), (3, 0), (3, 1)]
    results = run(arrivals, [model()] * 3, "clipper", num_gpus=2)
    assert sorted(batches(results)) == [
        (0, [0], 0, 5),
        (0, [2], 5, 10),
        (0, [3], 10, 15),
        (1, [1], 1, 6),
        (1, [4], 6, 11),
    ]


def test_tf_serving_waits_for_a_full_batch_or_its_timeout():
    parameters = {"max_batch": 2, "timeout_s": 3 / 1024}
    assert batches(run([0], model(), "tf_serving", **parameters)) == [(0, [0], 3, 8)]
    assert batches(run([0, 1], model(), "tf_serving", **parameters)) == [(0, [0, 1], 1, 7)]


def test_tf_serving_takes_models_in_turns_and_drops_nobody():
    """Batches of one for 12: half of it is 6."""
    arrivals = [(0, 0), (0, 0), (0, 0), (1, 1)]
    results = run(arrivals, [model([6], slo=12)] * 2, "tf_serving", timeout_s=0.0)
    assert batches(results) == [(0, [0], 0, 6), (0, [3], 6, 12), (0, [1], 12, 18), (0, [2], 18, 24)]
    assert list(results.outcome) == [GOOD, LATE, LATE, GOOD]


def test_triton_sends_a_preferred_size_once_the_first_has_waited():
    parameters = {"preferred": (2, 4), "max_queue_delay_s": 3 / 1024, "max_batch": 4}
    results = run([0, 1, 2], model(), "triton", **parameters)
    assert batches(results) == [(0, [0, 1], 3, 9), (0, [2], 9, 14)]
    assert batches(run([0, 1, 1, 2], model(), "triton", **parameters)) == [(0, [0, 1, 2, 3], 2, 10)]


def test_triton_without_preferred_sizes_sends_what_waits():
    results = run([0, 1, 2], model(), "triton", max_batch=4)
    assert batches(results) == [(0, [0], 0, 5), (0, [1, 2], 5, 11)]
