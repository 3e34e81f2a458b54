"""Prefill, decode and encode replicas, worked out by hand."""

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from tests.reference.engine import Engine
from tests.reference.hand import ONE_SECOND, batches, run_fleet
from tests.reference.settings import Failure, ReplicaSpec

ENGINE = Engine(16, 4, 4, 20)
LINK = {"link_latency_s": 0.5, "link_bytes_per_s": 8.0, "kv_bytes_per_block": 4.0}  # 0.5 s and 0.5 s a block
MIXED = ReplicaSpec(ENGINE, ONE_SECOND)
PREFILL = ReplicaSpec(ENGINE, ONE_SECOND, "prefill", **LINK)
DECODE = ReplicaSpec(ENGINE, ONE_SECOND, "decode")
ENCODE = ReplicaSpec(role="encode")

AVAILABLE, RUNNING, WAITING, QUEUED, OUTSTANDING, CONTEXT, KV_USED, KV_TOTAL, LEFT = range(9)
UNSEEN_REQUESTS, UNSEEN_PREFILL_TOKENS = 13, 14


def test_prefill_here_decode_there_and_the_kv_goes_over_the_link():
    # [0, 1] A's prefill (2 blocks). 1.5 s on the link. Two decodes from 2.5 on.
    result = run_fleet([(0, 5, 3), (2, 3, 1), (2.5, 3, 1)], [PREFILL, DECODE])
    assert batches(result, 0)[0] == "A5@0"
    assert batches(result, 1) == ["a@5", "a@6"]
    assert (result.first_token_s[0], result.finish_s[0]) == (1, 4.5)
    assert result.scheduled_s[0] == 0
    assert result.replica.tolist() == [1, 0, 0]
    # Routed at 0, at 1 again; B at 2 sees A's blocks still in use at the source, C at 2.5 (beside its own B,
    # which is in flight with 1 block) no more.
    assert [view[:, AVAILABLE].tolist() for view in result.views] == [[1, 0], [0, 1], [1, 0], [1, 0]]
    assert [view[0, KV_USED] for view in result.views] == [0, 2, 2, 1]
    assert result.views[3][1, [WAITING, QUEUED, OUTSTANDING]].tolist() == [1, 0, 6]
    # While it is on the link it is unseen, and brings nothing to prefill.
    assert [view[1, UNSEEN_REQUESTS] for view in result.views] == [0, 0, 1, 0]
    assert not any(view[:, UNSEEN_PREFILL_TOKENS].any() for view in result.views)
    # The iteration in which it is admitted takes the blocks of known = 6 tokens.
    assert result.iterations[1][0].kv_used_blocks == 2


def test_output_of_one_token_is_finished_by_the_prefill():
    result = run_fleet([(0, 5, 1)], [PREFILL, DECODE])
    assert (result.finish_s[0], result.replica[0], len(result.views)) == (1, 0, 1)


def test_transfers_of_one_source_go_one_after_the_other():
    result = run_fleet([(0, 4, 2), (0, 4, 2)], [PREFILL, DECODE])
    # A's block arrives at 2, B's at 3.
    assert batches(result, 1) == ["a@4", "b@4"]
    assert result.finish_s.tolist() == [3, 4]


def test_cancelled_transfer_frees_the_source_but_not_its_link():
    result = run_fleet([(0, 4, 2), (0, 4, 2)], [PREFILL, DECODE], columns={"cancel_after_s": [1.5, np.inf]})
    assert result.cancelled_s[0] == 1.5
    assert result.finish_s[1] == 4


def test_mixed_replicas_decode_where_there_is_nobody_else_for_it():
    result = run_fleet([(0, 5, 2), (0, 5, 2)], [PREFILL, MIXED], lambda rows, _: int(np.argmax(rows[:, 0])))
    assert [view[:, AVAILABLE].tolist() for view in result.views] == [[1, 1], [1, 1], [0, 1], [0, 1]]
    assert batches(result, 1) == ["a@5", "b@5"]


def test_mixed_replicas_do_not_decode_for_others_where_there_are_decode_replicas():
    result = run_fleet([(0, 5, 2)], [PREFILL, DECODE, MIXED])
    assert [view[:, AVAILABLE].tolist() for view in result.views] == [[1, 0, 1], [0, 1, 0]]


def test_prefill_replica_needs_room_for_the_prompt_only():
    small = ReplicaSpec(Engine(16, 4, 4, 2), ONE_SECOND, "prefill")
    result = run_fleet([(0, 8, 9)], [small, DECODE])
    assert result.finish_s[0] == 9


def test_preempted_at_the_decode_replica_it_is_recomputed_there():
    # 4 blocks of 4 at the decode replica: A and B, of 4 + 1 tokens, take two each. When A has 8 and needs a
    # third, B is preempted with 9 known tokens.
    prefill = ReplicaSpec(ENGINE, ONE_SECOND, "prefill")
    decode = ReplicaSpec(Engine(8, 4, 4, 4), ONE_SECOND, "decode")
    result = run_fleet([(0, 4, 6), (0, 4, 6)], [prefill, decode])
    together = [f"a@{n} b@{n}" for n in range(4, 8)]
    assert batches(result, 1) == [*together, "a@8", "B8@0", "B1@8"]
    assert result.first_token_s.tolist() == [1, 1]


def test_brought_request_waits_for_all_its_blocks():
    # 3 blocks of 4 at the decode replica: each request needs two for its 5 known tokens.
    prefill = ReplicaSpec(ENGINE, ONE_SECOND, "prefill")
    decode = ReplicaSpec(Engine(8, 4, 4, 3), ONE_SECOND, "decode")
    result = run_fleet([(0, 4, 3), (0, 4, 2)], [prefill, decode])
    assert batches(result, 1) == ["a@4", "a@5", "b@4"]


def test_brought_blocks_can_be_hit_once_their_request_has_been_scheduled():
    # A is handed over to a mixed replica, which has computed none of it; B, with the same prefix, finds it.
    caching = Engine(16, 4, 4, 20, prefix_caching=True)
    prefill, mixed = ReplicaSpec(caching, ONE_SECOND, "prefill"), ReplicaSpec(caching, ONE_SECOND)
    columns = {"prefix_ids": [1, 2, 1, 2], "prefix_offsets": [0, 2, 4], "prefix_block_tokens": 4}
    turns = iter([0, 1, 1])
    result = run_fleet([(0, 9, 3), (1.5, 10, 1)], [prefill, mixed], lambda *_: next(turns), columns=columns)
    assert batches(result, 1) == ["a@9", "a@10 B2@8"]


def test_kv_is_lost_with_its_source():
    # At 2, with A on the link, the prefill replica fails until 3: A starts anew.
    result = run_fleet([(0, 5, 2)], [PREFILL, DECODE], failures=[Failure(0, 2, 3)])
    assert batches(result, 0) == ["A5@0", "A5@0"]
    assert (result.first_token_s[0], result.finish_s[0], result.retries[0]) == (4, 6.5, 1)


def test_kv_is_lost_with_its_target():
    result = run_fleet([(0, 5, 2)], [PREFILL, DECODE, DECODE], failures=[Failure(1, 2)])
    assert batches(result, 0) == ["A5@0", "A5@0"]
    assert (result.replica[0], result.finish_s[0]) == (2, 5.5)


def test_request_waits_with_its_blocks_at_the_source_for_somebody_to_decode():
    result = run_fleet([(0, 5, 2), (3, 3, 1)], [PREFILL, DECODE], failures=[Failure(1, 0.5, 4)])
    assert result.views[1][0, KV_USED] == 2
    assert batches(result, 0) == ["A5@0", "B3@0"]
    assert result.finish_s[0] == 6.5


# Images.


def test_images_are_encoded_one_after_the_other_before_the_request_is_routed_again():
    # 0.5 s and 0.25 s a token: A takes [0, 1], B [1, 3]. C and D have none; iterations start at 0.5, 1.5, ...
    result = run_fleet(
        [(0, 4, 1), (0, 8, 1), (0.5, 3, 1), (2, 3, 1)],
        [ENCODE, MIXED],
        columns={"image_tokens": [2, 6, 0, 0]},
        encode_overhead_s=0.5,
        encode_s_per_token=0.25,
    )
    assert result.scheduled_s.tolist() == [1.5, 3.5, 0.5, 2.5]
    available = [view[:, AVAILABLE].tolist() for view in result.views]
    assert available == [[1, 0], [1, 0], [0, 1], [0, 1], [0, 1], [0, 1]]
    # C at 0.5 sees A being encoded and B waiting, with their prompts.
    assert result.views[2][0, [RUNNING, WAITING, OUTSTANDING, LEFT]].tolist() == [1, 1, 12, 0.5]


def test_request_is_cancelled_when_its_image_has_been_encoded():
    result = run_fleet(
        [(0, 4, 1), (0, 4, 1)],
        [ENCODE, MIXED],
        columns={"image_tokens": [2, 2], "cancel_after_s": [0.25, 0.5]},
        encode_overhead_s=1.0,
    )
    assert result.cancelled_s.tolist() == [1, 0.5]


def test_image_is_encoded_again_after_a_failure():
    result = run_fleet(
        [(0, 4, 3)],
        [ENCODE, MIXED, MIXED],
        columns={"image_tokens": [2]},
        encode_overhead_s=1.0,
        failures=[Failure(1, 1.5)],
    )
    # Encoded in [0, 1] and [1.5, 2.5].
    assert batches(result, 2)[0] == "A4@0"
    assert result.finish_s[0] == 5.5


@pytest.mark.parametrize(
    ("replicas", "message"),
    [
        ([DECODE], "no replica can prefill"),
        ([PREFILL], "no replica decodes"),
        ([PREFILL, ReplicaSpec(Engine(16, 4, 4, 1), ONE_SECOND, "decode")], "needs 2 KV blocks of 1"),
        (
            [PREFILL, ReplicaSpec(Engine(16, 4, 4, 20, scheduler="sarathi"), ONE_SECOND, "decode")],
            "replica 1: scheduler sarathi",
        ),
    ],
)
def test_fleets_that_are_refused(replicas, message):
    with pytest.raises(InputError, match=message):
        run_fleet([(0, 5, 2)], replicas)
