"""SGLang's batches, worked out by hand."""

import pytest

from servegym.costmodels.errors import InputError
from tests.reference.engine import Engine
from tests.reference.hand import batches, kv_used, prefixes, run


def sglang(*sizes, **settings):
    return Engine(*sizes, scheduler="sglang", **settings)


def test_prefill_goes_first_and_an_unfinished_chunk_ends_the_batch():
    result = run([(0, 10, 2), (0, 2, 2), (1.5, 1, 1)], sglang(8, 4, 1, 64))
    assert batches(result) == ["A8@0", "A2@8 B2@0", "C1@0", "a@10 b@2"]


def test_chunk_of_the_last_of_a_batch():
    result = run([(0, 3, 1), (0, 7, 1), (0, 1, 1)], sglang(8, 4, 1, 64))
    assert batches(result) == ["A3@0 B5@0", "B2@5 C1@0"]


def test_admission_promises_those_running_a_share_and_those_admitted_all():
    # 20 blocks of 1. [0, 1] A takes 4, 10 more are promised; B wants 8 of 6. [1, 2] A has generated 1 of 10:
    # ceil(0.7 * 9) = 7 are promised, and 16 - 7 = 9 are enough.
    result = run([(0, 4, 3), (0, 4, 2)], sglang(16, 4, 1, 20), max_output_tokens=[10, 4])
    assert batches(result) == ["A4@0", "B4@0", "a@4 b@4", "a@5"]


def test_share_falls_with_every_decode():
    # 108 blocks of 1. At 11 A has generated 11 of 100 in one prefill and 10 decodes, and 11 blocks. Promised
    # are ceil((0.7 - 10 * 0.7 * 0.86 / 600) * 89) = 62 (0.7 would be 63): 35 are left, which B needs.
    requests = [(0, 1, 100), (10.5, 34, 1)]
    result = run(requests, sglang(64, 4, 1, 108), max_output_tokens=[100, 1])
    assert batches(result)[11] == "B34@0"
    result = run(requests, sglang(64, 4, 1, 107), max_output_tokens=[100, 1])
    assert batches(result)[-1] == "B34@0"


def test_retraction():
    # 35 blocks of 1; four requests of 1 + 10 tokens, each prefilled before the next arrives: 4 + 7 * 4 = 32
    # blocks when each has generated 8. One step needs 4 of 3: D, C and B are retracted, for each leaves
    # fewer than the step and 20 more. Then r0 = min(1, 28 / 10) = 1. D and C return at once (9 tokens each,
    # 11 of 26 - 1 and 11 of 17 - 1 - 2), B (11 of 8 - 5) when they have finished.
    requests = [(0, 1, 10), (0.5, 1, 10), (1.5, 1, 10), (2.5, 1, 10)]
    result = run(requests, sglang(64, 4, 1, 35))
    together = [f"a@{n} b@{n} c@{n} d@{n}" for n in range(1, 8)]
    assert batches(result) == [
        *("A1@0", "B1@0", "C1@0", "D1@0"),
        *together,
        "a@8",
        "D9@0 C9@0",
        "a@9 d@9 c@9",
        "B9@0",
        "b@9",
    ]
    assert [p.request for p in result.preempted[0]] == [3, 2, 1]
    assert kv_used(result)[10:13] == [32, 9, 27]


def test_those_with_the_fewest_generated_tokens_and_then_the_longest_prompts_are_retracted_first():
    # 41 blocks of 1. A (2 tokens) and B (3) come together, C (1) when they have generated 2. 11 decodes of
    # all three later all 41 are taken. C has generated 12, A and B 13, and the prompt of B is longer.
    result = run([(0, 2, 14), (0, 3, 14), (1.5, 1, 14)], sglang(64, 4, 1, 41))
    assert [p.request for p in result.preempted[0]] == [2, 1]


def test_prompts_with_the_longest_cached_prefix_go_first():
    # One seat. A leaves its prefix; C has it and overtakes B.
    requests = [(0, 5, 1), (0.5, 5, 1), (0.5, 5, 1)]
    columns = prefixes((1, 2), (), (1, 2), block_tokens=2)
    caching = sglang(16, 1, 2, 20, prefix_caching=True)
    assert batches(run(requests, caching, **columns)) == ["A5@0", "C1@4", "B5@0"]
    assert batches(run(requests, sglang(16, 1, 2, 20), **columns)) == ["A5@0", "B5@0", "C5@0"]


def test_request_that_can_never_be_admitted_is_refused():
    with pytest.raises(InputError, match="may need 21 KV blocks of 20"):
        run([(0, 4, 1)], sglang(16, 4, 1, 20), max_output_tokens=[17])
