"""LightLLM's batches, worked out by hand."""

import pytest

from servegym.costmodels.errors import InputError
from tests.reference.engine import Engine
from tests.reference.hand import batches, run


def lightllm(*sizes, **settings):
    return Engine(*sizes, scheduler="lightllm", **settings)


def test_prefill_is_tried_after_so_many_decodes():
    result = run([(0, 2, 6), (0.5, 2, 1)], lightllm(16, 4, 1, 60, decodes_between_prefills=2))
    assert batches(result) == ["A2@0", "a@2", "a@3", "B2@0", "a@4", "a@5", "a@6"]


def test_failed_attempt_counts_as_one():
    # 18 blocks. [3, 4] C (10, 0) does not fit with A (5, 0) and B (5, 5): 20. A has gone by 4, but the next
    # attempt is 2 decodes later: B (7, 3), C: 17.
    requests = [(0, 2, 4), (0, 2, 9), (0.5, 9, 1)]
    result = run(requests, lightllm(16, 4, 1, 18, decodes_between_prefills=2))
    together = [f"a@{n} b@{n}" for n in (2, 3, 4)]
    assert batches(result) == ["A2@0 B2@0", *together, "b@5", "C9@0", *(f"b@{n}" for n in range(6, 10))]


@pytest.mark.parametrize(("blocks", "expected"), [(11, "A2@0 B2@0 C3@0"), (10, "A2@0 B2@0")])
def test_peak_of_memory_must_be_below_what_there_is(blocks, expected):
    # (used, left): A (3, 4), B (3, 0), C (4, 0). A: 4 + 3; A, B: 6; A, B, C: 10.
    result = run([(0, 2, 6), (0, 2, 2), (0, 3, 2)], lightllm(16, 4, 1, blocks))
    assert batches(result)[0] == expected


def test_peak_of_those_running_is_counted_from_what_they_have():
    # After [1, 2]: A has 3 tokens computed, (4, 3); C (4, 0). A: 7; A, C: 8 < 10.
    result = run([(0, 2, 6), (0, 2, 2), (0, 3, 2)], lightllm(16, 4, 1, 10, decodes_between_prefills=1))
    assert batches(result)[:3] == ["A2@0 B2@0", "a@2 b@2", "C3@0"]


@pytest.mark.parametrize(("blocks", "third"), [(20, "C1@0"), (19, "a@3 b@3")])
def test_peak_of_those_running_counts_what_they_may_still_generate(blocks, third):
    # After [1, 2]: A and B (4, 3), C (2, 5). C: 5 + 2; C, A: 3 * 2 + 6; all: 3 * 3 + 10 = 19.
    requests = [(0, 2, 6), (0, 2, 6), (0.5, 1, 7)]
    result = run(requests, lightllm(16, 4, 1, blocks, decodes_between_prefills=1))
    assert batches(result)[:3] == ["A2@0 B2@0", "a@2 b@2", third]


def test_rounding_up_to_blocks_is_set_aside():
    # 7 blocks of 2, less 4 x 1 token: 10 tokens to plan with, as above.
    result = run([(0, 2, 6), (0, 2, 2), (0, 3, 2)], lightllm(16, 4, 2, 7))
    assert batches(result)[0] == "A2@0 B2@0"


def test_limits_of_a_prefill_batch():
    requests = [(0, 5, 1), (0, 4, 1), (0, 3, 1)]
    assert batches(run(requests, lightllm(9, 4, 1, 60))) == ["A5@0 B4@0", "C3@0"]
    assert batches(run(requests, lightllm(16, 2, 1, 60))) == ["A5@0 B4@0", "C3@0"]


def test_limit_of_the_output_and_not_its_length_decides():
    # As in the first case of the peak, with a limit of 9 for A: (3, 7): 7 + 3 alone, which is not below 10.
    with pytest.raises(InputError, match="may need 10 KV tokens, not below 10"):
        run([(0, 2, 6)], lightllm(16, 4, 1, 10), max_output_tokens=[9])
    result = run([(0, 2, 6)], lightllm(16, 4, 1, 10, max_model_len=10), max_output_tokens=[9])
    assert len(result.iterations[0]) == 6


def test_prompt_over_the_budget_is_refused():
    with pytest.raises(InputError, match="prompt of 9 tokens, at most 8"):
        run([(0, 9, 1)], lightllm(8, 4, 1, 60))
