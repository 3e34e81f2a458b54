"""vLLM's V0 engine: prefill batches, decodes, recompute and swap, worked out by hand."""

import pytest

from servegym.costmodels.errors import InputError
from tests.reference.engine import Engine
from tests.reference.hand import batches, kv_used, run


def vllm_v0(*sizes, watermark=0.0, **settings):
    return Engine(*sizes, scheduler="vllm_v0", watermark=watermark, **settings)


def test_prefill_batch_stalls_the_decodes():
    result = run([(0, 3, 3), (0.5, 2, 1)], vllm_v0(16, 4, 4, 20))
    assert batches(result) == ["A3@0", "B2@0", "a@3", "a@4"]


@pytest.mark.parametrize(("padded", "expected"), [(0, ["A5@0 B3@0", "C1@0"]), (8, ["A5@0", "B3@0 C1@0"])])
def test_prefill_batch_is_limited_by_tokens_or_by_padded_tokens(padded, expected):
    engine = vllm_v0(8, 4, 4, 20, max_padded_prefill_tokens=padded)
    assert batches(run([(0, 5, 1), (0, 3, 1), (0, 1, 1)], engine)) == expected


def test_watermark_and_max_num_seqs_limit_a_prefill_batch():
    assert batches(run([(0, 4, 1), (0, 4, 1)], vllm_v0(8, 4, 1, 10, watermark=0.3))) == ["A4@0", "B4@0"]
    assert batches(run([(0, 4, 1), (0, 4, 1)], vllm_v0(8, 1, 1, 10))) == ["A4@0", "B4@0"]


def test_latest_arrival_is_preempted_whatever_the_order_of_admission():
    # Urgent first: B (arrived later) is admitted before A. 3 blocks of 2; A, the earlier, takes the free one.
    result = run([(0, 2, 2), (0, 2, 2)], vllm_v0(16, 4, 2, 3, order="priority"), priority=[1, 0])
    assert batches(result) == ["B2@0 A2@0", "a@2", "B3@0"]


def test_preemption_by_recompute_is_prefilled_before_any_decode():
    # 4 blocks of 4. [1, 2] B (11 tokens, 3 blocks) is preempted for A. [2, 3] its 12 known tokens fit: a
    # prefill batch, and A stalls. [3, 4] B is preempted again.
    result = run([(0, 3, 3), (0, 11, 3)], vllm_v0(16, 4, 4, 4))
    assert batches(result) == ["A3@0 B11@0", "a@3", "B12@0", "a@4", "B13@0"]
    assert result.preemptions.tolist() == [0, 2]


def test_swapping_takes_time_for_each_block_and_keeps_what_is_computed():
    # The same with a host of 8 blocks and 0.25 s a block. [1, 2.75] B's 3 blocks go out. [2.75, 3.75] A
    # takes a block, and B's 3 do not fit beside its 2. [3.75, 5.5] B comes back, and decodes at once.
    engine = vllm_v0(16, 4, 4, 4, preemption="swap", swap_blocks=8, swap_s_per_block=0.25)
    result = run([(0, 3, 3), (0, 11, 3)], engine)
    assert batches(result) == ["A3@0 B11@0", "a@3", "a@4", "b@11", "b@12"]
    assert [i.end_s for i in result.iterations[0]] == [1, 2.75, 3.75, 5.5, 6.5]
    assert kv_used(result) == [4, 1, 2, 3, 4]
    assert [(p.request, p.iteration, p.kind) for p in result.preempted[0]] == [(1, 1, "swap")]


def test_nobody_is_prefilled_while_somebody_is_swapped_out():
    # C arrives at 1.5 and would fit from [2.75, ...] on; it waits until B is back.
    engine = vllm_v0(16, 4, 4, 4, preemption="swap", swap_blocks=8, swap_s_per_block=0.25)
    result = run([(0, 3, 3), (0, 11, 2), (1.5, 1, 1)], engine)
    assert batches(result) == ["A3@0 B11@0", "a@3", "a@4", "b@11", "C1@0"]


def test_swapped_out_requests_count_as_waiting():
    engine = vllm_v0(16, 4, 4, 4, preemption="swap", swap_blocks=8, swap_s_per_block=0.25)
    result = run([(0, 3, 3), (0, 11, 3), (2.0, 1, 1)], engine)
    # At 2, in [1, 2.75]: A runs with 3 + 1 known tokens, B is swapped out with 11 + 1.
    assert result.views[2].tolist() == [[1, 1, 1, 0, 16, 3, 1, 4, 0.75, 0, 0]]


def test_without_room_on_the_host_it_is_recomputed():
    engine = vllm_v0(16, 4, 4, 4, preemption="swap", swap_blocks=2, swap_s_per_block=0.25)
    result = run([(0, 3, 3), (0, 11, 3)], engine)
    assert batches(result) == ["A3@0 B11@0", "a@3", "B12@0", "a@4", "B13@0"]
    assert result.finish_s.tolist() == [4, 5]


def test_request_longer_than_a_prefill_batch_is_refused():
    with pytest.raises(InputError, match="may have to prefill 9 tokens"):
        run([(0, 5, 5)], vllm_v0(8, 4, 4, 20))
    with pytest.raises(InputError, match="may have to prefill 7 tokens"):
        run([(0, 5, 3)], vllm_v0(8, 4, 4, 20, max_padded_prefill_tokens=6))
