import pytest

from tests.reference.batch.hand import batches, model, run
from tests.reference.batch.request import DROPPED, GOOD


def symphony(arrivals, models, condition="frontrun", margin_s=0.0, **settings):
    return run(arrivals, models, "symphony", condition=condition, margin_s=margin_s, **settings)


def test_a_batch_waits_until_it_could_not_grow():
    """Two that came at 0 and 1: a third could start with them until 20 - l(3) = 13."""
    assert batches(symphony([0, 1], model(slo=20))) == [(0, [0, 1], 13, 19)]


def test_a_full_batch_does_not_wait():
    assert batches(symphony([0, 1, 2, 3], model(slo=20))) == [(0, [0, 1, 2, 3], 3, 11)]


def test_delays_and_margin_come_off_the_wait():
    """The batch must end by 19; one more would have to start by 19 - 0.5 - l(2) - 0.125."""
    results = symphony([0], model(slo=20), margin_s=0.5 / 1024, delays=(0.25, 0.125, 1))
    assert batches(results) == [(0, [0], 12.375, 17.375)]


@pytest.mark.parametrize(
    "condition, start",
    [("eager", 0), ("frontrun", 6), ("latest", 7), ("timeout", 3), ("target_batch_size", 6)],
)
def test_when_one_request_is_served(condition, start):
    """`l(1) = 5, l(2) = 6`, to be answered in 12."""
    results = symphony([0], model(slo=12), condition, timeout_share=0.25)
    assert batches(results) == [(0, [0], start, start + 5)]


def test_the_target_size_does_not_wait():
    """Before a rate is known it is 2: `l(2) = 6` is half of 12."""
    assert batches(symphony([0, 1], model(slo=12), "target_batch_size")) == [(0, [0, 1], 1, 7)]


def test_the_target_queueing_delay_counts_from_the_last_start():
    """In seconds: a rate of 1/2 calls for batches of 4, which come together in 8."""
    served = model([1024 * (4 + b) for b in (1, 2, 3, 4)], slo=20 * 1024)
    results = symphony([0, 2 * 1024], served, "target_queueing_delay")
    assert batches(results) == [(0, [0], 0, 5 * 1024), (0, [1], 8 * 1024, 13 * 1024)]


def test_who_finds_no_gpu_waits_in_the_pool():
    results = symphony([0, 1, 2], model(slo=20), "eager")
    assert batches(results) == [(0, [0], 0, 5), (0, [1, 2], 5, 11)]


def test_a_batch_travels_while_the_one_before_it_runs():
    """It is sent at 5, to be there at 7 when the GPU is free."""
    results = symphony([0, 3], model(slo=40), "eager", delays=(2, 0, 0))
    assert batches(results) == [(0, [0], 2, 7), (0, [1], 7, 12)]


def test_the_pool_serves_who_must_start_first():
    """Until 5 the GPU is taken; then 2 must start by 13, 1 by 16."""
    results = symphony([0, (1, 0), (2, 1)], [model(slo=20), model(slo=16)], "eager")
    assert batches(results) == [(0, [0], 0, 5), (0, [2], 5, 10), (0, [1], 10, 15)]


def test_an_old_head_is_dropped_for_a_larger_batch():
    """At 10 the head (until 15.5) could be served alone; with it, the target of 2 could not."""
    models, arrivals = [model(slo=12), model([10], slo=100)], [(0, 1), 3.5, 9, 9]
    window = symphony(arrivals, models, "eager")
    assert batches(window) == [(0, [0], 0, 10), (0, [2, 3], 10, 16)]
    assert list(window.outcome) == [GOOD, DROPPED, GOOD, GOOD]
    timeout = symphony(arrivals, models, "eager", drop="timeout")
    assert batches(timeout) == [(0, [0], 0, 10), (0, [1], 10, 15), (0, [2, 3], 15, 21)]


def test_prefix_requests_join_where_they_still_fit():
    """At 5 a batch of 1 would end at 10: in time for request 2, not for 1; 3 then comes too late."""
    results = symphony([0, 1, 2, 3], model(slo=8), "eager", drop="timeout")
    assert batches(results) == [(0, [0], 0, 5), (0, [2], 5, 10)]
    assert list(results.outcome) == [GOOD, DROPPED, GOOD, DROPPED]


@pytest.mark.parametrize("gpu, second", [("longest_idle", 1), ("lowest_number", 0)])
def test_which_gpu(gpu, second):
    results = symphony([0, 20], model(slo=30), "eager", gpu=gpu, num_gpus=2)
    assert batches(results) == [(0, [0], 0, 5), (second, [1], 20, 25)]
