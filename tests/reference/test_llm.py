"""The reference simulator against small cases worked out by hand from docs/simulator.md."""

from itertools import pairwise

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from tests.reference.cost import decode_attention_s, iteration_s, prefill_s_per_pair
from tests.reference.hand import cost_of, run, shortest_queue
from tests.reference.llm import Engine, simulate
from tests.reference.lookup import LookupCost


def brief(result):
    """(start, end, tokens, sampled, chunks, decodes, their KV tokens, KV blocks in use) of each iteration."""
    return [
        [
            (i.start_s, i.end_s, i.tokens, i.sampled, i.chunks, i.num_decodes, i.kv_tokens, i.kv_used_blocks)
            for i in log
        ]
        for log in result.iterations
    ]


# The time of an iteration.


def test_iteration_time_adds_up_every_term():
    cost = cost_of(
        overhead_s=1.0,
        token_s=10.0,
        communication_s=np.arange(65) * 100.0,
        lm_head_s=np.arange(65) * 1_000.0,
        sampler_s=np.arange(65) * 10_000.0,
        prefill_s_per_pair=np.array([[0.5]]),
        decode_attention_s=np.full((65, 1), 0.125),
        mixed_decode_attention_s=np.full((65, 1), 0.25),
        mixed_s_per_pair=0.0625,
        prefill_overhead_s=100_000.0,
    )
    # 2 + 1 chunk tokens and 2 decodes: 5 tokens. Pairs: 2*3 + 3 = 9 and 1*0 + 1 = 1. 3 sample.
    seconds = iteration_s(cost, [(2, 3), (1, 0)], num_decodes=2, kv_tokens=10, sampled=3)
    assert seconds == 1 + 50 + 500 + 3_000 + 30_000 + 0.5 * (9 + 1) + 0.25 + 0.0625 * 2 * 3 + 100_000
    # Without prefill: 2 tokens, 2 sample, and decode attention by the table for it.
    seconds = iteration_s(cost, [], num_decodes=2, kv_tokens=10, sampled=2)
    assert seconds == 1 + 20 + 200 + 2_000 + 20_000 + 0.125


def test_iteration_time_by_lookup():
    # 3 + 4 + 2 tokens: 16, the next multiple of 8. Histories 10 and 64: 64 each; sqrt(9 + 16) = 5. Decodes of
    # 60 and 69 + 2 tokens: 65 on average (65.5), 128 as a multiple of 64.
    cost = LookupCost(linear_s={16: 1.0}, decode_s={(2, 128): 10.0}, prefill_s={(128, 25): 100.0})
    assert iteration_s(cost, [(3, 10), (4, 64)], num_decodes=2, kv_tokens=129, sampled=0) == 111


@pytest.mark.parametrize(
    ("chunk", "history", "expected"),
    [
        (1, 0, 1.0),
        (3, 4, 11.0),
        (2, 1, 3.5),  # chunk 1: 1 + 4/4 = 2; chunk 3: 3 + 8/4 = 5; half way between
        (10, 0, 3.0),
        (1, 100, 5.0),
        (10, 100, 11.0),
    ],
)
def test_prefill_is_bilinear_and_constant_beyond_the_knots(chunk, history, expected):
    cost = cost_of(
        prefill_chunk_knots=np.array([1.0, 3.0]),
        prefill_history_knots=np.array([0.0, 4.0]),
        prefill_s_per_pair=np.array([[1.0, 5.0], [3.0, 11.0]]),
    )
    assert prefill_s_per_pair(cost, chunk, history) == expected


@pytest.mark.parametrize(
    ("kv_tokens", "expected"), [(5, 0.5), (10, 1.0), (15, 1.5), (20, 2.0), (30, 4.0), (40, 6.0), (50, 8.0)]
)
def test_decode_attention_continues_its_outer_segments(kv_tokens, expected):
    table = np.array([[9.0, 9.0, 9.0], [9.0, 9.0, 9.0], [1.0, 2.0, 6.0]])
    cost = cost_of(decode_kv_knots=np.array([10.0, 20.0, 40.0]))
    assert decode_attention_s(cost, table, 2, kv_tokens) == expected
    assert decode_attention_s(cost, table, 0, kv_tokens) == 0


def test_decode_attention_with_one_knot_is_constant():
    cost = cost_of(decode_kv_knots=np.array([10.0]))
    table = np.array([[0.0], [7.0]])
    assert [decode_attention_s(cost, table, 1, kv_tokens) for kv_tokens in (0, 10, 99)] == [7, 7, 7]


# Batches. A log entry is (start, end, tokens, sampled, chunks, decodes, their KV tokens, blocks held).


def test_single_request():
    result = run([(0.5, 5, 3)], Engine(8, 4, block_size=4, num_kv_blocks=2))
    assert brief(result) == [
        [
            (0.5, 1.5, 5, 1, [(5, 0)], 0, 0, 2),
            (1.5, 2.5, 1, 1, [], 1, 5, 2),
            (2.5, 3.5, 1, 1, [], 1, 6, 2),
        ]
    ]
    assert (result.scheduled_s[0], result.first_token_s[0], result.finish_s[0]) == (0.5, 1.5, 3.5)
    assert (result.replica[0], result.preemptions[0]) == (0, 0)


def test_output_of_one_token_finishes_with_its_prefill():
    result = run([(0, 5, 1)], Engine(8, 4, block_size=4, num_kv_blocks=2))
    assert result.first_token_s[0] == result.finish_s[0] == 1
    assert len(result.iterations[0]) == 1


def test_request_that_arrives_in_an_iteration_joins_the_next_batch():
    # A second a token. [0, 3]: 3 of A. [3, 6]: 1 of A, 2 of B; A has its 2 tokens. Then B alone.
    engine = Engine(8, 4, block_size=16, num_kv_blocks=10)
    result = run([(0, 3, 2), (1, 2, 3)], engine, cost_of(token_s=1.0))
    assert brief(result) == [
        [
            (0, 3, 3, 1, [(3, 0)], 0, 0, 1),
            (3, 6, 3, 2, [(2, 0)], 1, 3, 2),
            (6, 7, 1, 1, [], 1, 2, 1),
            (7, 8, 1, 1, [], 1, 3, 1),
        ]
    ]
    assert result.scheduled_s.tolist() == [0, 3]
    assert result.first_token_s.tolist() == [3, 6]
    assert result.finish_s.tolist() == [6, 8]


def test_prompts_over_the_token_budget_are_chunked():
    # A's prompt of 10 takes 4 + 4 + 2; B gets the 2 left and then, after A's decode, its last token,
    # which is a chunk and not a decode.
    result = run([(0, 10, 2), (0, 3, 1)], Engine(4, 4, block_size=16, num_kv_blocks=10))
    assert brief(result) == [
        [
            (0, 1, 4, 0, [(4, 0)], 0, 0, 1),
            (1, 2, 4, 0, [(4, 4)], 0, 0, 1),
            (2, 3, 4, 1, [(2, 8), (2, 0)], 0, 0, 2),
            (3, 4, 2, 2, [(1, 2)], 1, 10, 2),
        ]
    ]
    assert result.scheduled_s.tolist() == [0, 2]
    assert result.first_token_s.tolist() == [3, 4]
    assert result.finish_s.tolist() == [4, 4]


def test_no_more_than_max_num_seqs_run():
    result = run([(0, 1, 1), (0, 1, 3), (0, 1, 1)], Engine(8, 2, block_size=16, num_kv_blocks=10))
    assert result.scheduled_s.tolist() == [0, 0, 1]
    assert result.finish_s.tolist() == [1, 3, 2]


# KV blocks.


def test_queue_waits_in_order_for_blocks():
    # 3 blocks of 2. A takes 2. B needs 2 and waits; C needs 1, which is free, but waits behind B.
    result = run([(0, 3, 2), (0, 4, 1), (0, 2, 1)], Engine(8, 4, block_size=2, num_kv_blocks=3))
    assert result.scheduled_s.tolist() == [0, 2, 2]
    assert [i.kv_used_blocks for i in result.iterations[0]] == [2, 2, 3]


def test_request_that_finds_no_block_and_is_last_preempts_itself():
    # 4 blocks of 2. Both need 3 in the end.
    # [0, 1] A 2 tokens: 1 block. B 3 tokens: 2 blocks. Both sample.
    # [1, 2] A 3 tokens: 2 blocks. B 4 tokens: 2 blocks. None is free.
    # [2, 3] A 4 tokens: 2 blocks. B 5 tokens: lacks 1, and is the last itself: preempted, frees 2.
    # [3, 4] A 5 tokens: 3 blocks. B would need ceil(5 / 2) = 3 for prompt and 2 outputs; 1 is free.
    # [4, 5] A 6 tokens: 3 blocks. A has its 5 outputs and frees all.
    # [5, 6] B computes 3 + 2 tokens anew in one chunk: 3 blocks, and samples its third output.
    result = run([(0, 2, 5), (0, 3, 3)], Engine(8, 4, block_size=2, num_kv_blocks=4))
    assert brief(result) == [
        [
            (0, 1, 5, 2, [(2, 0), (3, 0)], 0, 0, 3),
            (1, 2, 2, 2, [], 2, 5, 4),
            (2, 3, 1, 1, [], 1, 3, 2),
            (3, 4, 1, 1, [], 1, 4, 3),
            (4, 5, 1, 1, [], 1, 5, 3),
            (5, 6, 5, 1, [(5, 0)], 0, 0, 3),
        ]
    ]
    assert result.preemptions.tolist() == [0, 1]
    assert result.scheduled_s.tolist() == [0, 0]
    assert result.first_token_s.tolist() == [1, 1]
    assert result.finish_s.tolist() == [5, 6]


def test_last_request_is_preempted_for_one_before_it_and_goes_to_the_front():
    # 4 blocks of 2.
    # [0, 1] A and B 2 tokens: 1 block each. C arrives.
    # [1, 2] A and B 3 tokens: 2 blocks each. None is free for C.
    # [2, 3] A and B 4 tokens: 2 blocks each. None is free for C.
    # [3, 4] A 5 tokens: lacks 1, B is preempted and frees 2, A takes 1. The block left would do for C,
    #        but nobody is admitted beside a preemption. A has its 4 outputs.
    # [4, 5] B, before C in the queue, computes 2 + 3 tokens anew: 3 blocks. C: 1 block. Both finish.
    requests = [(0, 2, 4), (0, 2, 4), (0.5, 2, 1)]
    result = run(requests, Engine(8, 4, block_size=2, num_kv_blocks=4))
    assert brief(result) == [
        [
            (0, 1, 4, 2, [(2, 0), (2, 0)], 0, 0, 2),
            (1, 2, 2, 2, [], 2, 4, 4),
            (2, 3, 2, 2, [], 2, 6, 4),
            (3, 4, 1, 1, [], 1, 4, 3),
            (4, 5, 7, 2, [(5, 0), (2, 0)], 0, 0, 4),
        ]
    ]
    assert result.preemptions.tolist() == [0, 1, 0]
    assert result.scheduled_s.tolist() == [0, 0, 4]
    assert result.first_token_s.tolist() == [1, 1, 5]
    assert result.finish_s.tolist() == [4, 5, 5]


def test_preempted_requests_return_in_order():
    # 6 blocks of 4; A needs 4 in the end, B and C 3 each.
    # [0, 1] A 8 tokens (2 blocks), B 4 (1). C arrives.
    # [1, 2] A 9 (3), B 5 (2), C 4 (1): 6 held.
    # [2, 3] A 10 (3), B 6 (2), C 5: lacks 1, is last, preempted: 5 held.
    # [3, 4] A 11 (3), B 7 (2); C waits with 4 + 1 tokens, 2 blocks, 1 free.
    # [4, 5] A 12 (3), B 8 (2).
    # [5, 6] A 13 (4), none is free; B 9: lacks 1, is last, preempted, before C. A has its 6 outputs.
    # [6, 7] B 4 + 5 tokens anew (3), C 3 of its 4 + 1 (1), which is the budget of 12.
    # [7, 8] B 10 (3), C its last 2 (2). C has its 2 outputs, B its 7.
    requests = [(0, 8, 6), (0, 4, 7), (0.5, 4, 2)]
    result = run(requests, Engine(12, 4, block_size=4, num_kv_blocks=6))
    assert brief(result) == [
        [
            (0, 1, 12, 2, [(8, 0), (4, 0)], 0, 0, 3),
            (1, 2, 6, 3, [(4, 0)], 2, 12, 6),
            (2, 3, 2, 2, [], 2, 14, 5),
            (3, 4, 2, 2, [], 2, 16, 5),
            (4, 5, 2, 2, [], 2, 18, 5),
            (5, 6, 1, 1, [], 1, 12, 4),
            (6, 7, 12, 1, [(9, 0), (3, 0)], 0, 0, 4),
            (7, 8, 3, 2, [(2, 3)], 1, 9, 5),
        ]
    ]
    assert result.preemptions.tolist() == [0, 1, 1]
    assert result.finish_s.tolist() == [6, 8, 8]


def test_two_are_preempted_in_one_iteration():
    # 4 blocks of 2. [0, 1] each holds 1. [1, 2] A needs a second and takes that of D, the last; then B
    # takes that of C, which so comes to stand before D. A and B finish. [2, 3] C 3 tokens, D 2.
    requests = [(0, 2, 2), (0, 2, 2), (0, 2, 2), (0, 1, 2)]
    result = run(requests, Engine(8, 4, block_size=2, num_kv_blocks=4))
    assert brief(result) == [
        [
            (0, 1, 7, 4, [(2, 0), (2, 0), (2, 0), (1, 0)], 0, 0, 4),
            (1, 2, 2, 2, [], 2, 4, 4),
            (2, 3, 5, 2, [(3, 0), (2, 0)], 0, 0, 3),
        ]
    ]
    assert result.preemptions.tolist() == [0, 0, 1, 1]


def test_last_token_of_a_recomputation_is_a_chunk():
    # 9 blocks of 1 token. A and B grow to 4 tokens each; at [3, 4] A takes the last block for its fifth
    # and finishes, and B is preempted with 2 + 3 tokens to recompute: 4 (the budget), then 1. That one
    # is a chunk, for B has not sampled since it was admitted again.
    result = run([(0, 2, 4), (0, 2, 4)], Engine(4, 4, block_size=1, num_kv_blocks=9))
    assert brief(result)[0][3:] == [
        (3, 4, 1, 1, [], 1, 4, 5),
        (4, 5, 4, 0, [(4, 0)], 0, 0, 4),
        (5, 6, 1, 1, [(1, 4)], 0, 0, 5),
    ]
    assert result.preemptions.tolist() == [0, 1]


def test_request_preempted_in_its_prefill_keeps_its_scheduled_time():
    # 3 blocks of 2, budget 4. [0, 1] A 1 token (1 block), B 3 of 5 (2). [1, 2] A 2 (1); B needs 3 blocks,
    # has 2, is preempted. A finishes. [2, 3] B 4, [3, 4] B 1.
    engine = Engine(4, 4, block_size=2, num_kv_blocks=3, reserve_full_prompt=False)
    result = run([(0, 1, 2), (0, 5, 1)], engine)
    assert [i.chunks for i in result.iterations[0]] == [[(1, 0), (3, 0)], [], [(4, 0)], [(1, 4)]]
    assert result.scheduled_s.tolist() == [0, 0]
    assert result.first_token_s.tolist() == [1, 4]
    assert result.preemptions.tolist() == [0, 1]


# Ties.


def test_arrival_at_the_end_of_an_iteration_sees_it_ended_and_joins_the_next():
    result = run([(0, 4, 3), (1, 4, 1)], Engine(8, 4, block_size=4, num_kv_blocks=10))
    # A has 1 of 3 outputs, 4 computed tokens, 1 block; nothing is in flight at this instant.
    assert result.views[1].tolist() == [[1, 1, 0, 0, 5, 4, 1, 10, 0, 0, 0]]
    assert result.scheduled_s.tolist() == [0, 1]
    assert result.finish_s.tolist() == [3, 2]


def test_arrival_at_the_end_of_the_last_iteration_finds_the_replica_empty():
    result = run([(0, 4, 1), (1, 4, 1)], Engine(8, 4, block_size=4, num_kv_blocks=10))
    assert result.views[1].tolist() == [[1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 4]]
    assert result.scheduled_s.tolist() == [0, 1]


def test_simultaneous_arrivals_on_an_idle_replica_share_its_first_iteration():
    result = run([(2, 3, 1), (2, 4, 1)], Engine(8, 4, block_size=4, num_kv_blocks=10))
    assert result.views[1].tolist() == [[1, 0, 1, 3, 3, 0, 0, 10, 0, 0, 0]]
    assert brief(result) == [[(2, 3, 7, 2, [(3, 0), (4, 0)], 0, 0, 2)]]


def test_simultaneous_arrivals_see_the_choices_before_them():
    engine = Engine(8, 4, block_size=4, num_kv_blocks=10)
    result = run([(0, 1, 1)] * 5, engine, choose=shortest_queue, num_replicas=3)
    assert result.replica.tolist() == [0, 1, 2, 0, 1]
    assert [len(log) for log in result.iterations] == [1, 1, 1]


def test_iterations_without_duration_are_refused():
    with pytest.raises(InputError, match="longer than 0"):
        run([(0, 2, 3), (0, 2, 3)], Engine(8, 1, block_size=4, num_kv_blocks=10), cost_of())


# What a router sees.


def test_views_of_a_busy_replica():
    # Budget 4, blocks of 2, a second an iteration. The second replica stays idle.
    requests = [
        (0, 2, 5),  # A
        (0, 6, 2),  # B
        (0.25, 3, 1),  # C
        (1, 1, 1),  # D
        (1.5, 1, 1),  # E
        (2.5, 1, 1),  # F
        (4.5, 1, 1),  # G
    ]
    predicted = [4, 3, 2, 1, 0, 0, 0]
    engine = Engine(4, 4, block_size=2, num_kv_blocks=20)
    result = run(requests, engine, num_replicas=2, predicted=predicted)
    expected = [
        # For A, nothing is there.
        [1, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0],
        # For B, A waits.
        [1, 0, 1, 2, 2, 0, 0, 20, 0, 4, 0],
        # For C, [0, 1] computes 2 of A (1 block) and 2 of B (1 block), which leaves 4 of B.
        [1, 2, 0, 4, 8, 0, 2, 20, 0.75, 7, 0],
        # For D, that is done: A has 2 computed and 1 output, B lacks 4, C waits with 3.
        [1, 2, 1, 7, 12, 2, 2, 20, 0, 8, 0],
        # For E, [1, 2] computes the third token of A (2 blocks) and 3 of B (3 blocks), which leaves 1.
        [1, 2, 2, 5, 13, 2, 5, 20, 0.5, 9, 0],
        # For F, [2, 3] computes A's fourth (2 blocks), B's last (3 blocks; B does not decode yet), 2 of C
        # (1 block), which leaves 1; D and E wait.
        [1, 3, 2, 3, 15, 3, 6, 20, 0.5, 8, 0],
        # For G, [3, 4] has finished B (6 + 1 tokens), C (3) and D (1): 11 tokens in 4 iterations.
        # [4, 5] computes A's sixth (3 blocks), E and F (1 block each). A has 4 outputs, 5 computed.
        [1, 3, 0, 0, 8, 5, 5, 20, 0.5, 0, 2.75],
    ]
    assert [view[0].tolist() for view in result.views] == expected
    assert all(view[1].tolist() == [1, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0] for view in result.views)
    assert [request.tolist() for request in result.requests] == [
        [2, 4, 0],
        [6, 3, 0],
        [3, 2, 0.25],
        [1, 1, 0.75],
        [1, 0, 0.5],
        [1, 0, 1],
        [1, 0, 2],
    ]


def test_view_after_a_preemption():
    # As in test_request_that_finds_no_block_and_is_last_preempts_itself. At 2.5 A decodes with 3 computed
    # and 2 outputs; B waits with 3 + 2 tokens, and a prediction of 3.
    requests = [(0, 2, 5), (0, 3, 3), (2.5, 1, 1)]
    result = run(requests, Engine(8, 4, block_size=2, num_kv_blocks=4), predicted=[5, 3, 1])
    assert result.views[2].tolist() == [[1, 1, 1, 5, 9, 3, 2, 4, 0.5, 4, 0]]


def test_predicted_remaining_is_clipped_in_total_and_not_by_request():
    # At 4.5, A has 4 outputs and a prediction of 2; B waits with 2.5: -2 + 2.5. At 5.5: -3 + 2.5 < 0.
    requests = [(0, 1, 6), (0.5, 1, 1), (4.5, 1, 1), (5.5, 1, 1)]
    engine = Engine(8, 1, block_size=16, num_kv_blocks=10)
    result = run(requests, engine, predicted=[2, 2.5, 0, 0])
    assert [view[0, 9] for view in result.views] == [0, 2, 0.5, 0]


def test_without_a_predictor_the_predictions_are_zero():
    result = run([(0, 3, 9), (1.5, 3, 9)], Engine(8, 4, block_size=16, num_kv_blocks=10))
    assert [view[0, 9] for view in result.views] == [0, 0]
    assert [request[1] for request in result.requests] == [0, 0]


def test_all_columns_on_demand():
    engine = Engine(8, 4, block_size=4, num_kv_blocks=10)
    result = run([(0, 3, 2), (0.5, 2, 1)], engine, columns="all", num_replicas=2, priority=[3, -1])
    assert result.views[1].tolist() == [
        [1, 1, 0, 0, 3, 0, 1, 10, 0.5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0],
    ]
    assert [about.tolist() for about in result.requests] == [[3, 0, 0, 3, 0, -1], [2, 0, 0.5, -1, 1, -1]]


# Bad input, and the invariants under load.


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([(0, 5, 5)], "needs 3 KV blocks"),  # 5 + 5 - 1 = 9 tokens in blocks of 4
        ([(1, 1, 1), (0, 1, 1)], "before"),
        ([(float("nan"), 1, 1)], "finite"),
        ([(0, 0, 1)], "at least 1 token"),
        ([(0, 1, 0)], "at least 1 token"),
    ],
)
def test_workloads_that_are_refused(requests, message):
    with pytest.raises(InputError, match=message):
        run(requests, Engine(8, 4, block_size=4, num_kv_blocks=2))


def test_request_that_just_fits_is_served():
    result = run([(0, 5, 4)], Engine(8, 4, block_size=4, num_kv_blocks=2))
    assert result.finish_s[0] == 4


def test_choice_out_of_range_is_refused():
    with pytest.raises(InputError, match="replica 1"):
        run([(0, 1, 1)], Engine(8, 4, 4, 2), choose=lambda replicas, request: 1)


@pytest.mark.parametrize("seed", range(20))
def test_invariants_hold_under_shortage_of_blocks(seed):
    """The assertions of the simulator itself hold, and an iteration starts whenever there is work."""
    random = np.random.default_rng(seed)
    size = 60
    arrival_s = np.sort(random.integers(0, 60, size) / 4)
    prompt, output = random.integers(1, 20, size), random.integers(1, 12, size)
    budget = int(random.integers(3, 24))
    max_num_seqs = int(random.integers(3, min(budget, 8) + 1))
    block_size = int(random.integers(1, 5))
    largest = int(np.max(prompt + output - 1))
    engine = Engine(budget, max_num_seqs, block_size, num_kv_blocks=-(-largest // block_size) + 1)
    cost = cost_of(overhead_s=0.25, token_s=0.125)
    result = simulate(arrival_s, prompt, output, shortest_queue, num_replicas=2, engine=engine, cost=cost)
    assert result.preemptions.sum() > 0
    assert (result.first_token_s[output == 1] == result.finish_s[output == 1]).all()
    for replica, log in enumerate(result.iterations):
        here = result.replica == replica
        for before, after in pairwise(log):
            if after.start_s > before.end_s:  # idle, so everything that had arrived had finished
                arrived = here & (arrival_s <= before.end_s)
                assert (result.finish_s[arrived] <= before.end_s).all()
                assert after.start_s in arrival_s[here]
