"""The fleet's rules apart from roles and migration, worked out by hand."""

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from tests.reference.engine import Engine
from tests.reference.hand import ONE_SECOND, batches, cost_of, prefixes, run_fleet
from tests.reference.settings import Failure, ReplicaSpec

ENGINE = Engine(16, 4, 4, 20)
PLAIN = ReplicaSpec(ENGINE, ONE_SECOND)

AVAILABLE, RUNNING, WAITING, QUEUED, OUTSTANDING, CONTEXT, KV_USED, KV_TOTAL, LEFT = range(9)
SPEED = 12
UNSEEN_REQUESTS, UNSEEN_PREFILL_TOKENS = UNSEEN = 13, 14


def by_script(*numbers):
    turns = iter(numbers)
    return lambda replicas, request: next(turns)


# Replicas that differ.


def test_replicas_have_their_own_engines_and_costs():
    fast = ReplicaSpec(Engine(16, 4, 8, 50), cost_of(overhead_s=0.5))
    result = run_fleet([(0, 3, 2), (0, 3, 2)], [PLAIN, fast], by_script(0, 1))
    assert result.finish_s.tolist() == [2, 1]
    assert result.views[0][:, SPEED].tolist() == [1, 2]
    assert result.views[0][:, KV_TOTAL].tolist() == [20, 50]
    assert result.iterations[1][0].kv_used_blocks == 1


def test_request_may_go_only_where_it_fits():
    small = ReplicaSpec(Engine(16, 4, 4, 1), ONE_SECOND)
    result = run_fleet([(0, 5, 1), (0, 3, 1)], [small, PLAIN])
    assert [view[:, AVAILABLE].tolist() for view in result.views] == [[0, 1], [1, 1]]
    assert result.replica.tolist() == [1, 0]
    with pytest.raises(InputError, match="choose: replica 0 for request 0, available are \\[1\\]"):
        run_fleet([(0, 5, 1)], [small, PLAIN], by_script(0))
    with pytest.raises(InputError, match="request 0: needs 2 KV blocks of 1"):
        run_fleet([(0, 5, 1)], [small, small])


# Latency and stale state.


def test_request_is_counted_at_its_replica_when_it_has_reached_it():
    requests = [(0, 3, 1), (0.125, 3, 1), (0.25, 3, 1)]
    result = run_fleet(requests, [PLAIN], dispatch_latency_s=0.25)
    assert [view[0, WAITING] for view in result.views] == [0, 0, 1]
    assert result.scheduled_s.tolist() == [0.25, 1.25, 1.25]


def test_router_sees_the_state_of_some_time_ago():
    # A: iterations end at 1, 2, ..., 6. The delay is 1 s.
    requests = [(0, 3, 6), (0.5, 3, 1), (1.25, 3, 1), (1.5, 3, 1), (2, 3, 1)]
    views = run_fleet(requests, [PLAIN], state_delay_s=1.0).views
    # At 0.5 of -0.5: nothing. At 1.25 of 0.25: A in flight. At 1.5 of 0.5: B has come, nothing is computed.
    # At 2 of 1: [0, 1] has ended, and the next iteration has not started, which will admit B.
    columns = [RUNNING, WAITING, OUTSTANDING, CONTEXT, LEFT]
    assert [view[0, columns].tolist() for view in views[1:]] == [
        [0, 0, 0, 0, 0],
        [1, 0, 3, 0, 0.75],
        [1, 1, 6, 0, 0.5],
        [1, 1, 7, 3, 0],
    ]


def unseen(result) -> list[list[float]]:
    """Per decision and replica: requests, tokens."""
    return [view[:, UNSEEN].ravel().tolist() for view in result.views]


def test_what_was_sent_since_the_state_seen_is_unseen():
    # The delay is 1 s. Unseen are at 0.5, of -0.5, A; at 1.25, of 0.25, B; at 1.5, of 0.5, C, as B came then;
    # at 1.5 again D too.
    requests = [(0, 3, 6), (0.5, 2, 1), (1.25, 5, 1), (1.5, 7, 1), (1.5, 1, 1)]
    result = run_fleet(requests, [PLAIN, PLAIN], by_script(0, 0, 1, 0, 1), state_delay_s=1.0)
    assert unseen(result) == [[0, 0, 0, 0], [1, 3, 0, 0], [1, 2, 0, 0], [0, 0, 1, 5], [1, 7, 1, 5]]


def test_what_is_on_its_way_is_unseen():
    """With live state until it is there; with old state until its coming is seen."""
    requests = [(0, 3, 6), (0.25, 2, 1), (0.5, 5, 1), (1.0, 1, 1)]
    result = run_fleet(requests, [PLAIN], dispatch_latency_s=0.5)
    assert unseen(result) == [[0, 0], [1, 3], [1, 2], [0, 0]]
    result = run_fleet(requests, [PLAIN], dispatch_latency_s=0.5, state_delay_s=0.25)
    assert unseen(result) == [[0, 0], [1, 3], [2, 5], [1, 5]]


def test_who_is_cancelled_on_the_way_is_on_it_no_more():
    # A is cancelled at 0.25. B asks at 0.375, with old state of 0.1875; C at 0.5, of 0.3125.
    requests, columns = [(0, 3, 6), (0.375, 2, 1), (0.5, 2, 1)], {"cancel_after_s": [0.25, np.inf, np.inf]}
    fleet = {"replicas": [PLAIN], "columns": columns, "dispatch_latency_s": 1.0}
    assert unseen(run_fleet(requests, **fleet)) == [[0, 0], [0, 0], [1, 2]]
    result = run_fleet(requests, **fleet, state_delay_s=0.1875)
    assert unseen(result) == [[0, 0], [1, 3], [1, 2]]


def test_state_is_not_older_than_what_caused_the_arrival():
    # A ends at 3, its follow-up arrives at 3.25 and sees the state of 3.
    columns = {"parent": [-1, 0], "think_s": [0, 0.25]}
    views = run_fleet([(0, 3, 3), (0, 9, 1)], [PLAIN], columns=columns, state_delay_s=1.0).views
    assert views[1][0, [RUNNING, OUTSTANDING, KV_USED]].tolist() == [0, 0, 0]


# Sessions.


def test_follow_up_arrives_when_its_parent_has_finished_and_the_user_has_thought():
    columns = {"parent": [-1, 0, 1], "think_s": [0, 2, 0]}
    result = run_fleet([(0, 3, 2), (0, 9, 1), (0, 12, 1)], [PLAIN], columns=columns)
    assert result.scheduled_s.tolist() == [0, 4, 5]
    assert [about[2] for about in result.requests] == [0, 4, 1]  # gaps


def test_follow_ups_of_a_cancelled_request_are_lost():
    columns = {"parent": [-1, 0, 1], "think_s": [0, 2, 0], "cancel_after_s": [0.5, np.inf, np.inf]}
    result = run_fleet([(0, 3, 2), (0, 9, 1), (0, 12, 1)], [PLAIN], columns=columns)
    assert result.outcome == ["cancelled", "lost", "lost"]


# Cancellation.


@pytest.mark.parametrize(
    ("after_s", "cancelled_s", "iterations"), [(1.5, 2, 2), (2.0, 2, 2), (2.25, 3, 3), (0.5, 1, 1)]
)
def test_running_request_is_cancelled_at_the_end_of_its_iteration(after_s, cancelled_s, iterations):
    result = run_fleet([(0, 3, 9)], [PLAIN], columns={"cancel_after_s": [after_s]})
    assert result.cancelled_s.tolist() == [cancelled_s]
    assert len(result.iterations[0]) == iterations
    assert np.isnan(result.finish_s[0]) and result.outcome == ["cancelled"]


def test_request_that_finishes_by_then_is_finished():
    result = run_fleet([(0, 3, 2)], [PLAIN], columns={"cancel_after_s": [1.5]})
    assert (result.outcome, result.finish_s[0]) == (["finished"], 2)


def test_waiting_request_is_cancelled_at_once():
    one_seat = ReplicaSpec(Engine(16, 1, 4, 20), ONE_SECOND)
    columns = {"cancel_after_s": [np.inf, 1.0, np.inf]}
    result = run_fleet([(0, 3, 3), (0.5, 3, 1), (1.5, 3, 1)], [one_seat], columns=columns)
    assert result.cancelled_s[1] == 1.5
    assert result.views[2][0, WAITING] == 0
    assert np.isnan(result.scheduled_s[1])


def test_request_on_its_way_or_at_the_router_is_cancelled_at_once():
    columns = {"cancel_after_s": [0.5]}
    result = run_fleet([(0, 3, 3)], [PLAIN], columns=columns, dispatch_latency_s=1.0)
    assert (result.cancelled_s[0], len(result.iterations[0])) == (0.5, 0)
    result = run_fleet([(0, 3, 3)], [PLAIN], columns=columns, failures=[Failure(0, 0, 2)])
    assert (result.cancelled_s[0], len(result.iterations[0])) == (0.5, 0)


def test_cancelled_request_frees_its_blocks_for_the_next_iteration():
    # 5 blocks of 4. B waits for 4 of them; A, with 3, is cancelled in [1, 2].
    tight = ReplicaSpec(Engine(16, 4, 4, 5), ONE_SECOND)
    result = run_fleet([(0, 9, 9), (0, 14, 1)], [tight], columns={"cancel_after_s": [1.5, np.inf]})
    assert batches(result) == ["A9@0", "a@9", "B14@0"]


# Failures.


def test_requests_of_a_failed_replica_start_anew_elsewhere_in_order_of_arrival():
    # At 1.5 A decodes on replica 0 and B waits there; both go to replica 1, from the start.
    one_seat = ReplicaSpec(Engine(16, 1, 4, 20), ONE_SECOND)
    result = run_fleet(
        [(0, 3, 3), (0.5, 3, 1)], [one_seat, one_seat], by_script(0, 0, 1, 1), failures=[Failure(0, 1.5)]
    )
    assert batches(result, 0) == ["A3@0"]
    assert batches(result, 1) == ["A3@0", "a@3", "a@4", "B3@0"]
    assert result.first_token_s.tolist() == [2.5, 5.5]
    assert result.scheduled_s.tolist() == [0, 4.5]
    assert result.retries.tolist() == [1, 1]
    assert [view[:, AVAILABLE].tolist() for view in result.views[2:]] == [[0, 1], [0, 1]]


def test_iteration_that_ends_as_the_replica_fails_counts():
    result = run_fleet([(0, 3, 1)], [PLAIN], failures=[Failure(0, 1.0)])
    assert result.finish_s.tolist() == [1]


def test_without_another_replica_requests_wait_for_the_recovery():
    requests = [(0, 3, 2), (2, 3, 1), (3, 3, 1)]
    result = run_fleet(requests, [PLAIN], failures=[Failure(0, 1.5, 10)])
    assert batches(result) == ["A3@0", "A3@0 B3@0 C3@0", "a@3"]
    assert result.finish_s.tolist() == [12, 11, 11]


def test_requests_of_a_failed_replica_are_lost_where_nobody_retries():
    columns = {"parent": [-1, 0, -1], "think_s": [0, 1, 0]}
    result = run_fleet(
        [(0, 3, 3), (0, 9, 1), (2, 3, 1)],
        [PLAIN, PLAIN],
        columns=columns,
        failures=[Failure(0, 1.5)],
        on_failure="lost",
    )
    assert result.outcome == ["lost", "lost", "finished"]
    assert result.retries.tolist() == [0, 0, 0]


def test_request_without_any_replica_ever_is_lost():
    result = run_fleet([(0, 3, 3), (2, 3, 3)], [PLAIN], failures=[Failure(0, 1.5)])
    assert result.outcome == ["lost", "lost"]


def test_request_on_its_way_to_a_replica_that_fails_is_routed_again():
    result = run_fleet(
        [(0, 3, 1)], [PLAIN, PLAIN], by_script(0, 1), dispatch_latency_s=1.0, failures=[Failure(0, 0.5)]
    )
    assert result.scheduled_s.tolist() == [1.5]
    assert result.retries.tolist() == [1]


def test_prefix_cache_of_a_failed_replica_is_lost():
    caching = ReplicaSpec(Engine(16, 4, 4, 20, prefix_caching=True), ONE_SECOND)
    columns = prefixes((1, 2), (1, 2), (1, 2), block_tokens=4)
    result = run_fleet(
        [(0, 9, 1), (1, 9, 1), (3, 9, 1)], [caching], columns=columns, failures=[Failure(0, 2.5, 2.75)]
    )
    assert result.hit_tokens.tolist() == [0, 8, 0]


def test_request_cancelled_in_an_iteration_that_a_failure_ends_leaves_with_it():
    result = run_fleet(
        [(0, 3, 9)], [PLAIN], columns={"cancel_after_s": [1.25]}, failures=[Failure(0, 1.5, 2)]
    )
    assert (result.outcome, result.cancelled_s[0]) == (["cancelled"], 1.5)


# Scaling.


def test_plan_starts_replicas_and_drains_them():
    arrivals = [0, 2.5, 3, 5, 5.75]
    result = run_fleet(
        [(t, 3, 4) for t in arrivals],
        [PLAIN, PLAIN],
        lambda replicas, request: int(np.flatnonzero(replicas[:, 0])[-1]),
        scaling=[(0, 1), (2, 2), (4, 1), (5.5, 2)],
        startup_s=1.0,
    )
    # Replica 1 is inactive at 0, started at 2, there at 3. At 4 it drains, with C on it until 7; at 5.5 it is
    # wanted again and takes E at once.
    available = [view[:, AVAILABLE].tolist() for view in result.views]
    assert available == [[1, 0], [1, 0], [1, 1], [1, 0], [1, 1]]
    assert result.replica.tolist() == [0, 0, 1, 0, 1]
    assert result.finish_s[2] == 7


def test_inactive_replica_starts_with_a_blank_cache():
    caching = ReplicaSpec(Engine(16, 4, 4, 20, prefix_caching=True), ONE_SECOND)
    columns = prefixes((1, 2), (1, 2), block_tokens=4)
    result = run_fleet(
        [(0, 9, 1), (5, 9, 1)], [caching], columns=columns, scaling=[(2, 0), (3, 1)], startup_s=1
    )
    assert result.hit_tokens.tolist() == [0, 0]


def test_request_waits_at_the_router_for_a_replica_to_start():
    result = run_fleet([(0, 3, 1), (1, 3, 1)], [PLAIN], scaling=[(0, 0), (3, 1)], startup_s=0.5)
    assert result.scheduled_s.tolist() == [3.5, 3.5]


def test_start_that_is_called_off_does_not_happen():
    # Begun at 1, called off at 2; begun anew at 2.25, and over at 3.75.
    result = run_fleet(
        [(0, 3, 1), (3, 3, 1), (4, 3, 1)],
        [PLAIN, PLAIN],
        scaling=[(0, 1), (1, 2), (2, 1), (2.25, 2)],
        startup_s=1.5,
    )
    assert [view[1, AVAILABLE] for view in result.views] == [0, 0, 1]


# Images without encode replicas.


def test_images_are_encoded_in_the_iteration_that_admits_their_request():
    # 0.5 s and 0.25 s a token: 1 s and 2 s, on top of the iteration's own second, once.
    result = run_fleet(
        [(0, 3, 2), (0, 6, 2)],
        [PLAIN],
        columns={"image_tokens": [2, 6]},
        encode_overhead_s=0.5,
        encode_s_per_token=0.25,
    )
    assert [i.end_s for i in result.iterations[0]] == [4, 5]


def test_image_is_not_encoded_again_after_a_preemption():
    # 4 blocks of 2; B is preempted at 3 and comes back at 6.
    tight = ReplicaSpec(Engine(8, 4, 2, 4), ONE_SECOND)
    columns = {"image_tokens": [0, 2]}
    result = run_fleet([(0, 2, 5), (0, 3, 3)], [tight], columns=columns, encode_overhead_s=1.0)
    assert result.preemptions.tolist() == [0, 1]
    assert [i.end_s for i in result.iterations[0]] == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"on_failure": "panic"}, "on_failure: 'panic'"),
        ({"failures": [Failure(2, 1)]}, "failures: replica 2, not below 1"),
        ({"scaling": [(0, 2)]}, "scaling: 2 replicas"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        run_fleet([(0, 3, 1)], [PLAIN], **settings)
