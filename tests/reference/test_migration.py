"""Live migration, worked out by hand."""

import numpy as np

from tests.reference.engine import Engine
from tests.reference.hand import ONE_SECOND, batches, run_fleet
from tests.reference.settings import Failure, ReplicaSpec

LINK = {"link_bytes_per_s": 4.0, "kv_bytes_per_block": 1.0}  # 0.25 s a block
AVAILABLE, RUNNING, WAITING, QUEUED, OUTSTANDING, CONTEXT, KV_USED, KV_TOTAL, LEFT = range(9)


def replica(blocks=20, seqs=4):
    return ReplicaSpec(Engine(16, seqs, 4, blocks), ONE_SECOND, **LINK)


def move_once(request_index, target):
    """A rule that moves one request, the first time that it is asked."""
    asked = []

    def rebalance(now_s, fleet):
        asked.append(now_s)
        running = [r for replica in fleet.replicas for r in replica.running if r.index == request_index]
        return [(request, target) for request in running] if len(asked) == 1 else []

    return rebalance


def migrate(requests, replicas, choose=lambda *_: 0, **settings):
    columns = settings.pop("columns", None)
    defaults = {"rebalance": move_once(0, 1), "rebalance_s": 1.5, "last_stage_blocks": 1}
    return run_fleet(requests, replicas, choose, columns, **{**defaults, **settings})


def test_request_decodes_while_its_kv_goes_over_and_stops_for_the_last_blocks():
    # A's 12 tokens are computed at 1. 1.5: 3 full blocks go, till 2.25. Then 13 are computed, 1 block is
    # left, and A stops at 3, with 14: 1 block goes, till 3.25. 17 of 20 tokens are generated there.
    result = migrate([(0, 12, 20)], [replica(), replica()])
    assert batches(result, 0) == ["A12@0", "a@12", "a@13"]
    assert batches(result, 1)[0] == "a@14"
    assert result.iterations[1][0].start_s == 3.25
    assert result.finish_s[0] == 20.25
    assert (result.replica[0], result.migrations[0], result.preemptions[0]) == (1, 1, 0)
    assert result.iterations[1][0].kv_used_blocks == 4


def test_after_so_many_stages_it_stops_whatever_is_left():
    # A target of 0 blocks left is never reached. Stages of 3, 0 and 0 blocks and 0.25 s each end at 2.5, 2.75
    # and 3, when [2, 3] has ended: A stops at once, and its fourth block is there at 3.5.
    slow = ReplicaSpec(Engine(16, 4, 4, 20), ONE_SECOND, link_latency_s=0.25, **LINK)
    result = migrate([(0, 12, 20)], [slow, slow], last_stage_blocks=0)
    assert batches(result, 0) == ["A12@0", "a@12", "a@13"]
    assert result.iterations[1][0].start_s == 3.5


def test_short_request_stops_without_a_stage():
    # 3 blocks are few enough at 1.5: A stops at 2, with 13 tokens in 4 blocks, which take 1 s.
    result = migrate([(0, 12, 20)], [replica(), replica()], last_stage_blocks=3)
    assert batches(result, 0) == ["A12@0", "a@12"]
    assert result.iterations[1][0].start_s == 3


def test_blocks_are_reserved_at_the_target_and_kept_at_the_source():
    # Looked at 2, between stages, and at 3.125 and 3.25 on the way of the last block.
    requests = [(0, 12, 20), (2, 1, 1), (3.125, 1, 1), (3.25, 1, 1)]
    turns = iter([0, 0, 0, 0])
    result = migrate(requests, [replica(), replica()], lambda *_: next(turns))
    # At 2: A holds 4 at the source. At 3.125: the same and C waits; at 3.25 its blocks are free there.
    assert [view[:, KV_USED].tolist() for view in result.views[1:]] == [[4, 3], [4, 4], [1, 4]]
    assert [view[:, RUNNING].tolist() for view in result.views[1:]] == [[1, 0], [0, 0], [1, 1]]


def test_migration_without_room_at_the_target_does_not_happen():
    result = migrate([(0, 12, 20)], [replica(), replica(blocks=2)])
    assert (result.replica[0], result.migrations[0], result.finish_s[0]) == (0, 0, 20)
    # Room for the first stage, not for the last block: it goes on where it is.
    result = migrate([(0, 12, 20)], [replica(), replica(blocks=3)])
    assert (result.replica[0], result.migrations[0], result.finish_s[0]) == (0, 0, 20)


def test_migration_needs_a_seat_at_the_target_and_keeps_it():
    turns = iter([0, 1])
    result = migrate([(0, 12, 20), (0, 3, 9)], [replica(), replica(seqs=1)], lambda *_: next(turns))
    assert result.migrations.tolist() == [0, 0]
    # B comes to the target at 2 and waits, for the seat is A's, until A has finished at 20.25.
    turns = iter([0, 1])
    result = migrate([(0, 12, 20), (2, 3, 9)], [replica(), replica(seqs=1)], lambda *_: next(turns))
    assert result.scheduled_s.tolist() == [0, 20.25]


def test_request_that_finishes_meanwhile_leaves_its_reservation_till_the_stage_ends():
    requests = [(0, 12, 2), (2, 1, 1), (2.25, 1, 1)]
    turns = iter([0, 0, 0])
    result = migrate(requests, [replica(), replica()], lambda *_: next(turns))
    assert (result.finish_s[0], result.migrations[0]) == (2, 0)
    assert [view[1, KV_USED] for view in result.views] == [0, 3, 0]


def test_cancelled_request_does_not_arrive():
    # Cancelled at 3.125, on the link with its last block.
    result = migrate([(0, 12, 20)], [replica(), replica()], columns={"cancel_after_s": [3.125]})
    assert (result.cancelled_s[0], result.migrations[0]) == (3.125, 0)
    assert batches(result, 1) == []


def test_preempted_request_is_not_migrated():
    # 8 blocks of 4 at the source. At 4.5 A has 15 tokens and B 14 in 4 blocks, and 3 of B's go, till 5.25.
    # At 5 A needs a fifth, and B is preempted. The reservation lasts till 5.25.
    requests = [(0, 12, 9), (0, 12, 6), (5.125, 1, 1), (5.25, 1, 1)]
    turns = iter([0, 0, 0, 0])
    result = migrate(
        requests,
        [replica(blocks=8), replica()],
        lambda *_: next(turns),
        rebalance=move_once(1, 1),
        rebalance_s=4.5,
    )
    assert [view[1, KV_USED] for view in result.views[2:]] == [3, 0]
    assert (result.preemptions[1], result.migrations[1], result.replica[1]) == (1, 0, 0)


def test_request_preempted_and_back_meanwhile_is_not_migrated():
    # As above, but the stage takes 6 s more, till 11.25. B is back at 9 and decodes again from 10 on; the two
    # blocks that it has more by then are few enough to be sent at last, but the migration is over.
    slow = ReplicaSpec(Engine(16, 4, 4, 8), ONE_SECOND, link_latency_s=6.0, **LINK)
    result = migrate(
        [(0, 12, 9), (0, 12, 12)],
        [slow, replica()],
        rebalance=move_once(1, 1),
        rebalance_s=4.5,
        last_stage_blocks=2,
    )
    assert batches(result, 0)[9:12] == ["B16@0", "b@16", "b@17"]
    assert (result.preemptions[1], result.migrations[1], result.replica[1]) == (1, 0, 0)


def test_failure_of_the_target_ends_the_migration_alone():
    result = migrate([(0, 12, 20)], [replica(), replica()], failures=[Failure(1, 2)])
    assert (result.migrations[0], result.retries[0], result.finish_s[0]) == (0, 0, 20)


def test_failure_of_the_source_frees_the_reservation():
    turns = iter([0, 1])
    result = migrate([(0, 12, 5)], [replica(), replica()], lambda *_: next(turns), failures=[Failure(0, 2)])
    assert batches(result, 1)[0] == "A12@0"
    assert (result.retries[0], result.finish_s[0]) == (1, 7)


def test_target_that_drains_is_not_empty_while_a_request_is_on_its_way_there():
    # Replica 1 is to leave at 1.75 and wanted again at 2: it goes on at once, without a start of 9 s.
    result = migrate(
        [(0, 12, 20), (2.5, 1, 1)], [replica(), replica()], scaling=[(1.75, 1), (2, 2)], startup_s=9.0
    )
    assert result.views[1][:, AVAILABLE].tolist() == [1, 1]
    assert result.migrations[0] == 1


def test_rule_is_asked_again_and_again_while_there_is_work():
    asked = []
    migrate([(0, 12, 5)], [replica()], rebalance=lambda now_s, _: asked.append(now_s) or [])
    assert asked == [1.5, 3, 4.5, 6]


def test_request_migrates_once_at_a_time():
    def twice(now_s, fleet):
        return [(r, 1) for r in fleet.replicas[0].running] * 2

    result = migrate([(0, 12, 20), (2, 3, 1)], [replica(), replica()], rebalance=twice)
    assert result.migrations.tolist() == [1, 0]
    assert result.views[1][:, KV_USED].tolist() == [4, 3]


def test_impossible_moves_are_ignored():
    def everything(now_s, fleet):
        return [(r, 0) for replica in fleet.replicas for r in replica.running + replica.waiting]

    result = migrate([(0, 12, 3), (1.25, 3, 1)], [replica()], rebalance=everything, rebalance_s=0.25)
    assert result.migrations.tolist() == [0, 0]
    assert np.isfinite(result.finish_s).all()
