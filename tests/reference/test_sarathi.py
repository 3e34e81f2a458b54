"""Sarathi-Serve's batches, worked out by hand."""

import pytest

from servegym.costmodels.errors import InputError
from tests.reference.engine import Engine
from tests.reference.hand import batches, kv_used, run


def sarathi(*sizes, watermark=0.0, **settings):
    return Engine(*sizes, scheduler="sarathi", watermark=watermark, **settings)


def test_decodes_go_first_and_prompts_fill_the_chunk():
    result = run([(0, 6, 3), (0, 3, 2)], sarathi(4, 4, 4, 20))
    assert batches(result) == ["A4@0", "A2@4 B2@0", "a@6 B1@2", "a@7 b@3"]


def test_blocks_of_the_whole_prompt_are_taken_at_admission():
    assert kv_used(run([(0, 12, 1)], sarathi(4, 4, 4, 20))) == [3, 3, 3]


def test_decode_needs_a_free_block_also_when_it_takes_none():
    # 4 blocks of 4. A (3 tokens, 1 block) and B (12, 3 blocks). [1, 2] A's fourth token fits its block, but
    # none is free: B is preempted, and with 13 known tokens does not fit beside A.
    result = run([(0, 3, 3), (0, 12, 2)], sarathi(16, 4, 4, 4))
    assert batches(result) == ["A3@0 B12@0", "a@3", "a@4", "B13@0"]
    assert kv_used(result) == [4, 1, 2, 4]


def test_preempted_request_may_return_in_the_same_iteration():
    # 3 blocks of 4. [1, 2] B (7 tokens, 2 blocks) is preempted for A, which takes nothing; B's 8 known
    # tokens fit the 2 blocks. [2, 3] it is preempted again, and 9 tokens do not fit.
    result = run([(0, 3, 3), (0, 7, 3)], sarathi(16, 4, 4, 3))
    assert batches(result) == ["A3@0 B7@0", "a@3 B8@0", "a@4", "B9@0"]
    assert result.preemptions.tolist() == [0, 2]
    assert [(p.request, p.iteration) for p in result.preempted[0]] == [(1, 1), (1, 2)]


def test_last_decode_preempts_itself():
    # 3 blocks of 2. A takes the last one for its third token; B has nobody behind it.
    result = run([(0, 2, 2), (0, 2, 2)], sarathi(16, 4, 2, 3))
    assert batches(result) == ["A2@0 B2@0", "a@2", "B3@0"]


def test_watermark_is_kept_free_by_admissions_only():
    # 10 blocks of 1, 3 kept. A grows from 5 to 7; B would leave 2.
    result = run([(0, 5, 3), (0, 3, 1)], sarathi(16, 4, 1, 10, watermark=0.3))
    assert batches(result) == ["A5@0", "a@5", "a@6", "B3@0"]


def test_one_percent_is_kept_free_by_default():
    # 100 blocks of 1: B would leave none.
    result = run([(0, 50, 1), (0, 50, 1)], sarathi(60, 4, 1, 100, watermark=None))
    assert batches(result)[0] == "A50@0"


@pytest.mark.parametrize(
    ("cuts", "expected"),
    [
        (False, ["A2@0 B2@0", "a@2", "a@3", "a@4", "B4@0", "B4@4", "B2@8"]),
        (True, ["A2@0 B2@0", "a@2 B2@0", "a@3 b@2", "a@4 b@3"]),
    ],
)
def test_restart_in_the_middle_of_a_prefill(cuts, expected):
    # 6 blocks of 2, chunk 4. B (10 tokens, 5 blocks) is preempted after 2 tokens. As Vidur restarts it, they
    # are its prompt from then on.
    result = run([(0, 2, 4), (0, 10, 1)], sarathi(4, 4, 2, 6, restart_cuts_prompt=cuts))
    assert batches(result)[: len(expected)] == expected
    assert sum(i.tokens for i in result.iterations[0]) == 2 + 3 + 2 + 10


@pytest.mark.parametrize(
    ("prompt", "output", "allowed"),
    [(12, 1, True), (13, 1, True), (12, 2, True), (13, 2, False), (16, 1, True), (16, 2, False)],
)
def test_request_must_fit_with_a_free_block_at_its_turn(prompt, output, allowed):
    # 4 blocks of 4: with an output of 2 a decode needs a block free beside those of the prompt.
    engine = sarathi(16, 4, 4, 4)
    if allowed:
        assert len(run([(0, prompt, output)], engine).iterations[0]) == output
    else:
        with pytest.raises(InputError, match="KV blocks"):
            run([(0, prompt, output)], engine)


def test_request_must_fit_beside_the_watermark():
    with pytest.raises(InputError, match="needs 11 KV blocks"):
        run([(0, 8, 1)], sarathi(16, 4, 1, 10, watermark=0.3))
