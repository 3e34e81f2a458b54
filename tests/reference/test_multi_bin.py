"""Static batches of one bin: which bin is next, and who is in it, worked out by hand."""

import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm.ranking import PROMPT_TOKENS
from tests.reference.engine import Engine
from tests.reference.hand import batches, by, run

BY_PROMPT = by(lambda row: row[PROMPT_TOKENS] // 10, "queue")  # bins: below 10 tokens, 10 to 19, ...


def run_bins(requests, *sizes):
    return run(requests, Engine(*sizes, scheduler="multi_bin", order="rank"), ranking=BY_PROMPT)


def test_without_a_complete_bin_it_is_that_of_the_first_request():
    # Nobody's bin ever has four. At 1 B is the first that waits, though its key is the greater one.
    result = run_bins([(0, 1, 1), (0.25, 11, 1), (0.5, 2, 1), (0.75, 12, 2)], 40, 4, 1, 80)
    assert batches(result) == ["A1@0", "B11@0 D12@0", "d@12", "C2@0"]


def test_bin_completed_first_is_next():
    # Pairs. While A runs, bin 2 (D, E) is complete at 0.5, bin 1 (C, F) at 0.625, and bin 0 (B) never.
    arrivals = [(0, 1), (0.125, 2), (0.25, 11), (0.375, 21), (0.5, 22), (0.625, 12)]
    result = run_bins([(t, p, 1) for t, p in arrivals], 50, 2, 1, 90)
    assert batches(result) == ["A1@0", "D21@0 E22@0", "C11@0 F12@0", "B2@0"]


def test_of_bins_completed_at_once_it_is_that_of_the_smaller_number():
    arrivals = [(0, 1), (0.5, 11), (0.5, 21), (0.5, 22), (0.5, 12)]
    result = run_bins([(t, p, 1) for t, p in arrivals], 50, 2, 1, 90)
    assert batches(result) == ["A1@0", "C21@0 D22@0", "B11@0 E12@0"]


def test_first_of_a_bin_with_more_than_a_batch_are_next():
    # At 1 B, C and D of bin 0 wait. At 2 no bin is complete, and D is the first.
    result = run_bins([(0, 1, 1), (0.25, 2, 1), (0.5, 3, 1), (0.75, 4, 1), (0.75, 11, 1)], 20, 2, 1, 90)
    assert batches(result) == ["A1@0", "B2@0 C3@0", "D4@0", "E11@0"]


@pytest.mark.parametrize("sizes", [(15, 4, 1, 90), (40, 4, 1, 15)])
def test_limits_of_static_hold_within_a_bin(sizes):
    """15 tokens or blocks: the second does not fit, and the third, which would, waits behind it."""
    result = run_bins([(0, 7, 1), (0, 9, 1), (0, 2, 1)], *sizes)
    assert batches(result) == ["A7@0", "B9@0 C2@0"]


def test_nobody_joins_a_batch_under_way():
    result = run_bins([(0, 2, 3), (0.5, 2, 1)], 20, 2, 1, 90)
    assert batches(result) == ["A2@0", "a@2", "a@3", "B2@0"]


def test_order_must_be_that_of_a_ranking():
    with pytest.raises(InputError, match="order: fcfs, multi_bin needs rank"):
        Engine(8, 4, 1, 9, scheduler="multi_bin")
