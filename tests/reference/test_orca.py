"""Orca's batches, worked out by hand."""

import pytest

from servegym.costmodels.errors import InputError
from tests.reference.engine import Engine
from tests.reference.hand import batches, kv_used, run


def orca(*sizes):
    return Engine(*sizes, scheduler="orca", max_model_len=8)


def test_whole_prompts_join_the_decodes_and_reserve_the_longest_sequence():
    # 5 blocks of 4, 2 for each request: C waits for B.
    result = run([(0, 3, 2), (0, 4, 1), (0, 2, 1)], orca(16, 4, 4, 5))
    assert batches(result) == ["A3@0 B4@0", "a@3 C2@0"]
    assert kv_used(result) == [4, 4]


def test_batch_stays_within_its_tokens():
    result = run([(0, 3, 2), (0, 4, 1), (0, 2, 1)], orca(6, 3, 4, 20))
    assert batches(result) == ["A3@0", "a@3 B4@0", "C2@0"]


def test_no_more_than_max_num_seqs_run():
    result = run([(0, 3, 2), (0, 4, 1), (0, 2, 1)], orca(16, 2, 4, 20))
    assert batches(result) == ["A3@0 B4@0", "a@3 C2@0"]


@pytest.mark.parametrize(
    ("request_", "message"), [((0, 5, 1), "prompt of 5 tokens, at most 4"), ((0, 4, 5), "max_model_len is 8")]
)
def test_requests_that_are_refused(request_, message):
    with pytest.raises(InputError, match=message):
        run([request_], orca(6, 3, 4, 20))


def test_longest_sequence_must_fit():
    with pytest.raises(InputError, match="max_model_len needs more than 1"):
        run([(0, 1, 1)], orca(6, 3, 4, 1))
