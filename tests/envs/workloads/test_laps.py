"""A trace in laps: every request comes back, thinned anew each time, at the trace's rate."""

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.workloads import Workload
from servegym.envs.workloads.laps import in_laps


def trace(**columns: object) -> Workload:
    """Ten requests told apart by their prompts, 0 to 18 s."""
    return Workload("ten", 2.0 * np.arange(10), 100 + np.arange(10), np.ones(10, int), **columns)


def test_with_all_requests_kept_laps_follow_each_other_at_the_same_gaps() -> None:
    laps = in_laps(trace(), 35, 1.0, np.random.default_rng(0))
    assert laps.num_requests == 35
    assert set(np.diff(laps.prompt_tokens)) == {1, -9}
    np.testing.assert_allclose(np.diff(laps.arrival_s), 2.0)


def test_they_begin_anywhere() -> None:
    firsts = {
        int(in_laps(trace(), 3, 1.0, np.random.default_rng(seed)).prompt_tokens[0]) for seed in range(200)
    }
    assert firsts == set(range(100, 110))


def test_each_request_is_kept_with_its_probability_anew_in_each_lap() -> None:
    laps = in_laps(trace(), 20_000, 0.4, np.random.default_rng(1))
    _, times_each = np.unique(laps.prompt_tokens, return_counts=True)
    np.testing.assert_allclose(times_each / 20_000, 0.1, atol=0.01)
    steps = np.round(np.diff(laps.arrival_s) / 2.0)  # requests from one that is kept to the next
    for step in (1, 2, 3):
        assert np.mean(steps == step) == pytest.approx(0.4 * 0.6 ** (step - 1), abs=0.02)


@pytest.mark.parametrize(
    "columns, column",
    [
        ({"parent": np.full(10, -1), "think_s": np.zeros(10)}, "parent"),
        ({"session_id": np.zeros(10, int)}, "session_id"),
        (
            {"prefix_ids": np.zeros(0, int), "prefix_offsets": np.zeros(11, int), "prefix_block_tokens": 16},
            "prefix_ids",
        ),
    ],
)
def test_what_requests_have_in_common_would_come_back(columns: dict[str, object], column: str) -> None:
    with pytest.raises(InputError, match=f"has {column}, must have none to be played in laps"):
        in_laps(trace(**columns), 5, 1.0, np.random.default_rng(0))


def test_requests_at_one_instant_have_no_rate() -> None:
    at_once = Workload("at once", np.zeros(3), np.ones(3, int), np.ones(3, int))
    with pytest.raises(InputError, match="its 3 requests come at once, must take some time"):
        in_laps(at_once, 5, 1.0, np.random.default_rng(0))
