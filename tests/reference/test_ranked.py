"""The scheduler `ranked`: pauses, evictions, swapping and the end of filling, worked out by hand."""

import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.ranking import PRIORITY
from tests.reference.engine import Engine
from tests.reference.hand import batches, by, kv_used, run


def run_ranked(requests, priority, *sizes, ranking=None, **settings):
    """Requests of smaller priority numbers first."""
    cancel = settings.pop("cancel_after_s", None)
    return run(
        requests,
        Engine(*sizes, scheduler="ranked", **settings),
        ranking=ranking or by(lambda row: row[PRIORITY]),
        priority=priority,
        cancel_after_s=cancel,
    )


def ends(result):
    return [iteration.end_s for iteration in result.iterations[0]]


def preemptions(result):
    return [(p.request, p.iteration, p.kind) for p in result.preempted[0]]


def test_one_who_is_put_off_keeps_its_blocks():
    # One seat. [1, 3] B is served before A, whose block stays.
    result = run_ranked([(0, 2, 3), (0.5, 3, 2)], [1, 0], 8, 1, 2, 9)
    assert batches(result) == ["A2@0", "B3@0", "b@3", "a@2", "a@3"]
    assert kv_used(result) == [1, 3, 3, 2, 2]
    assert result.finish_s.tolist() == [5, 3]
    assert result.preemptions.tolist() == [0, 0]


def test_paused_requests_are_running_for_a_router():
    # At 1.5 A is paused with 2 tokens computed and 3 known; B is being prefilled.
    result = run_ranked([(0, 2, 3), (0.5, 3, 2), (1.5, 1, 1)], [1, 0, 2], 8, 1, 2, 9)
    assert result.views[2].tolist() == [[1, 2, 0, 0, 6, 2, 3, 9, 0.5, 0, 0]]


def test_prompts_are_chunked_and_the_batch_is_in_the_order_of_admission():
    # [1, 2] B goes first and takes 3 tokens of 4, which leaves one for A's prompt. [2, 3] B decodes.
    result = run_ranked([(0, 7, 1), (0.5, 3, 2)], [1, 0], 4, 4, 1, 20)
    assert batches(result) == ["A4@0", "A1@4 B3@0", "A2@5 b@3"]
    assert kv_used(result) == [7, 10, 11]  # the blocks of a prompt are taken at once


def test_who_is_in_the_way_is_recomputed():
    # 2 blocks of 2. [1, 2] B needs both: A loses its one.
    result = run_ranked([(0, 2, 3), (0.5, 3, 2)], [1, 0], 8, 1, 2, 2)
    assert batches(result) == ["A2@0", "B3@0", "b@3", "A3@0", "a@3"]
    assert kv_used(result) == [1, 2, 2, 2, 2]
    assert preemptions(result) == [(0, 1, "recompute")]


def test_swapping_keeps_what_is_computed_and_lengthens_iterations():
    # The same: A's block goes out in [1, 2.25] and comes back in [3.25, 4.5], when A decodes at once.
    swap = {"preemption": "swap", "swap_blocks": 4, "swap_s_per_block": 0.25}
    result = run_ranked([(0, 2, 3), (0.5, 3, 2)], [1, 0], 8, 1, 2, 2, **swap)
    assert batches(result) == ["A2@0", "B3@0", "b@3", "a@2", "a@3"]
    assert ends(result) == [1, 2.25, 3.25, 4.5, 5.5]
    assert kv_used(result) == [1, 2, 2, 2, 2]
    assert preemptions(result) == [(0, 1, "swap")]


def test_without_room_on_the_host_it_is_recomputed():
    swap = {"preemption": "swap", "swap_blocks": 0, "swap_s_per_block": 0.25}
    result = run_ranked([(0, 2, 3), (0.5, 3, 2)], [1, 0], 8, 1, 2, 2, **swap)
    assert batches(result) == ["A2@0", "B3@0", "b@3", "A3@0", "a@3"]
    assert ends(result) == [1, 2, 3, 4, 5]


def test_prompts_in_the_middle_are_recomputed_also_with_swapping():
    # 3 blocks of 2, chunks of 2. [1, 2] B's 2 blocks beside A's 2: A starts again at 3.
    swap = {"preemption": "swap", "swap_blocks": 4, "swap_s_per_block": 0.25}
    result = run_ranked([(0, 4, 2), (0.5, 3, 1)], [1, 0], 2, 1, 2, 3, **swap)
    assert batches(result) == ["A2@0", "B2@0", "B1@2", "A2@0", "A2@2", "a@4"]
    assert preemptions(result) == [(0, 1, "recompute")]


@pytest.mark.parametrize(("s_per_block", "expected"), [(0.25, [1, 2, 3, 4, 5]), (1.5, [1, 2, 3.5, 5, 6])])
def test_swapping_ahead_keeps_blocks_free_while_iterations_run(s_per_block, expected):
    # 4 blocks of 2, 2 to be kept free. At 1 three are free. At 2 one is: A, beyond the one seat, goes out
    # though B finds its third block anyway. The iteration lasts as long as the longer of batch and transfer.
    swap = {"preemption": "swap", "swap_blocks": 4, "swap_s_per_block": s_per_block, "swap_ahead_blocks": 2}
    result = run_ranked([(0, 2, 3), (0.5, 4, 2)], [1, 0], 8, 1, 2, 4, **swap)
    assert batches(result) == ["A2@0", "B4@0", "b@4", "a@2", "a@3"]
    assert ends(result) == expected
    assert kv_used(result) == [1, 3, 3, 2, 2]
    assert preemptions(result) == [(0, 2, "swap")]


def test_who_does_not_fit_on_the_host_is_passed_over_by_swapping_ahead():
    # 8 blocks of 2, 6 to be kept free. At 2 five are free. A, the last, has 2 and the host
    # takes 1: B goes out.
    swap = {"preemption": "swap", "swap_blocks": 1, "swap_ahead_blocks": 6}
    result = run_ranked([(0, 4, 2), (0.5, 2, 2), (1.5, 2, 1)], [2, 1, 0], 8, 1, 2, 8, **swap)
    assert batches(result) == ["A4@0", "B2@0", "C2@0", "b@2", "a@4"]
    assert preemptions(result) == [(1, 2, "swap")]


def test_nobody_is_served_behind_one_who_does_not_fit():
    # 4 blocks of 1. B's 3 fit neither beside A's 2 nor beside its 3; C's 1 would.
    result = run_ranked([(0, 2, 2), (0, 3, 1), (0, 1, 1)], [0, 1, 2], 8, 4, 1, 4)
    assert batches(result) == ["A2@0", "a@2", "B3@0 C1@0"]


def test_nobody_is_preempted_where_that_would_not_free_enough():
    # 6 blocks of 1. At 1 C (5) comes between A (2, a third now) and B (1): also without B it would not fit.
    result = run_ranked([(0, 2, 2), (0, 1, 3), (0.5, 5, 1)], [0, 2, 1], 8, 4, 1, 6)
    assert batches(result) == ["A2@0 B1@0", "a@2", "C5@0", "b@1", "b@2"]
    assert result.preemptions.tolist() == [0, 0, 0]


def test_nobody_is_served_behind_one_who_was_preempted():
    # 5 blocks of 1, full. [1, 2] A takes one of B's 3; C would fit into the two that are left.
    result = run_ranked([(0, 2, 3), (0, 3, 2), (0.5, 1, 1)], [0, 1, 2], 8, 4, 1, 5)
    assert batches(result) == ["A2@0 B3@0", "a@2", "a@3", "B4@0 C1@0"]
    assert preemptions(result) == [(1, 1, "recompute")]


def test_last_in_the_order_is_preempted_first_and_no_more_than_needed():
    # 6 blocks of 1, full. [1, 2] A lacks one: C gives up its two, the other is for B.
    result = run_ranked([(0, 2, 2), (0, 2, 2), (0, 2, 2)], [0, 1, 2], 8, 4, 1, 6)
    assert batches(result) == ["A2@0 B2@0 C2@0", "a@2 b@2", "C3@0"]
    assert preemptions(result) == [(2, 1, "recompute")]


def test_one_who_lacks_a_block_is_no_victim_of_its_own():
    # 5 blocks of 1, one free: A takes it, and B is paused.
    result = run_ranked([(0, 2, 2), (0, 2, 2)], [0, 1], 8, 4, 1, 5)
    assert batches(result) == ["A2@0 B2@0", "a@2", "b@2"]
    assert kv_used(result) == [4, 5, 3]
    assert result.preemptions.tolist() == [0, 0]


def test_watermark_stays_free_at_admission():
    result = run_ranked([(0, 4, 2), (0, 4, 1)], [0, 1], 8, 4, 1, 10, watermark=0.3)
    assert batches(result) == ["A4@0", "a@4", "B4@0"]


def test_watermark_counts_for_preemption_but_not_for_coming_back():
    # 8 blocks of 1, 2 of them the watermark. At 1 B's 5 and 2 more are not free beside A's 2, which go out.
    # At 2 C takes 5, and A's 3 are all that is left. At 3 C needs a sixth.
    swap = {"preemption": "swap", "swap_blocks": 8}
    requests = [(0, 2, 3), (0.5, 5, 1), (1.5, 5, 2)]
    result = run_ranked(requests, [1, 0, 0], 8, 2, 1, 8, watermark=0.25, **swap)
    assert batches(result) == ["A2@0", "B5@0", "C5@0 a@2", "c@5", "a@3"]
    assert kv_used(result) == [2, 5, 8, 6, 4]
    assert preemptions(result) == [(0, 1, "swap"), (0, 3, "swap")]


def test_equals_are_served_by_arrival():
    result = run_ranked([(0, 2, 1), (0, 2, 1), (0.5, 2, 1)], [0, 0, 0], 2, 2, 1, 20)
    assert batches(result) == ["A2@0", "B2@0", "C2@0"]


@pytest.mark.parametrize(
    ("num_blocks", "preemption", "leaves_s"), [(9, "swap", 2.0), (3, "swap", 1.75), (3, "recompute", 1.75)]
)
def test_one_who_is_put_off_may_be_cancelled(num_blocks, preemption, leaves_s):
    # At 1.75 A is paused beside B (it leaves when the iteration ends), or swapped out or waits.
    swap = {"preemption": preemption, "swap_blocks": 4}
    cancel = [1.75, 99]
    result = run_ranked([(0, 2, 3), (0.5, 5, 2)], [1, 0], 8, 1, 2, num_blocks, cancel_after_s=cancel, **swap)
    assert batches(result) == ["A2@0", "B5@0", "b@5"]
    assert result.outcome == ["cancelled", "finished"]
    assert result.cancelled_s[0] == leaves_s


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheduler": "ranked", "order": "rank"}, "order: rank, not with scheduler ranked"),
        ({"scheduler": "ranked", "prefix_caching": True}, "prefix_caching: not with"),
        ({"scheduler": "ranked", "swap_ahead_blocks": 2}, "swap_ahead_blocks: only with"),
        (
            {"scheduler": "vllm_v0", "preemption": "swap", "swap_ahead_blocks": 2},
            "swap_ahead_blocks: only with",
        ),
        ({"scheduler": "ranked", "preemption": "swap", "swap_ahead_blocks": -1}, "swap_ahead_blocks: -1"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Engine(8, 4, 2, 9, **settings)


def test_requests_that_do_not_fit_beside_the_watermark_are_refused():
    with pytest.raises(InputError, match="may need 11 KV blocks of 10"):
        run_ranked([(0, 4, 5)], [0], 8, 4, 1, 10, watermark=0.3)
