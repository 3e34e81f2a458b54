"""Static batches run to completion, worked out by hand."""

import pytest

from servegym.costmodels.errors import InputError
from tests.reference.engine import Engine
from tests.reference.hand import batches, kv_used, run


def static(*sizes, **settings):
    return Engine(*sizes, scheduler="static", **settings)


def test_nobody_joins_a_batch_under_way():
    # B's seat stays empty from 1 on; C and D wait for A's last token.
    result = run([(0, 3, 3), (0, 2, 1), (0.5, 2, 2), (2.5, 1, 1)], static(8, 4, 1, 20))
    assert batches(result) == ["A3@0 B2@0", "a@3", "a@4", "C2@0 D1@0", "c@2"]
    assert kv_used(result) == [5, 4, 5, 3, 3]
    assert result.scheduled_s.tolist() == [0, 0, 3, 3]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((9, 3, 1, 9), ["A4@0 B4@0 C1@0"]),
        ((8, 3, 1, 9), ["A4@0 B4@0", "C1@0"]),  # tokens
        ((7, 3, 1, 9), ["A4@0", "B4@0 C1@0"]),
        ((9, 2, 1, 9), ["A4@0 B4@0", "C1@0"]),  # seats
        ((9, 3, 2, 4), ["A4@0 B4@0", "C1@0"]),  # blocks
    ],
)
def test_batch_is_limited_by_tokens_seats_and_blocks(sizes, expected):
    assert batches(run([(0, 4, 1), (0, 4, 1), (0, 1, 1)], static(*sizes))) == expected


def test_batch_is_limited_by_what_its_outputs_may_need():
    # 8 blocks of 1: 4 + 1 for A's limit of 2 tokens and 3 for B; with a limit of 3, 6 and 3.
    requests, engine = [(0, 4, 1), (0, 3, 1)], static(8, 4, 1, 8)
    assert batches(run(requests, engine, max_output_tokens=[2, 1])) == ["A4@0 B3@0"]
    assert batches(run(requests, engine, max_output_tokens=[3, 1])) == ["A4@0", "B3@0"]


def test_head_of_the_queue_blocks_those_behind_it():
    result = run([(0, 3, 1), (0, 6, 1), (0, 1, 1)], static(8, 4, 1, 20))
    assert batches(result) == ["A3@0", "B6@0 C1@0"]


def test_queue_may_be_ordered_by_priority():
    result = run([(0, 3, 1), (0, 6, 1)], static(8, 4, 1, 20, order="priority"), priority=[1, 0])
    assert batches(result) == ["B6@0", "A3@0"]


def test_batch_goes_on_when_one_of_it_is_cancelled():
    result = run([(0, 2, 4), (0, 2, 3), (0.5, 1, 1)], static(8, 4, 1, 20), cancel_after_s=[99, 1.5, 99])
    assert batches(result) == ["A2@0 B2@0", "a@2 b@2", "a@3", "a@4", "C1@0"]


def test_requests_that_are_refused():
    with pytest.raises(InputError, match="prompt of 9 tokens, at most 8"):
        run([(0, 9, 1)], static(8, 4, 1, 20))
    with pytest.raises(InputError, match="may need 9 KV blocks of 8"):
        run([(0, 4, 2)], static(8, 4, 1, 8), max_output_tokens=[6])
