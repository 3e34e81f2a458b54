"""Shortest remaining processing time, by hand and against other schedules."""

import numpy as np
import pytest

from servegym.agents.bounds.pooled_queue import least_mean_flow_time, least_total_flow_time


def test_by_hand() -> None:
    """The long job is interrupted by the short one, which completes first."""
    arrival_s, work_s = np.array([0.0, 1.0, 1.5]), np.array([4.0, 1.0, 6.0])
    assert least_total_flow_time(arrival_s, work_s, 1.0) == pytest.approx(5.0 + 1.0 + 9.5)
    assert least_total_flow_time(arrival_s, work_s, 2.0) == pytest.approx(2.5 + 0.5 + 4.0)


def test_without_jobs_there_is_no_mean() -> None:
    assert np.isnan(least_mean_flow_time(np.empty(0), np.empty(0), 1.0))


@pytest.mark.parametrize("seed", range(50))
def test_no_schedule_in_slots_has_less(seed: int) -> None:
    """Any choice of whom to serve in each second."""
    rng = np.random.default_rng(seed)
    arrival = np.sort(rng.integers(0, 12, 8))
    work = rng.integers(1, 6, 8)
    least = least_total_flow_time(arrival.astype(float), work.astype(float), 1.0)
    for _ in range(30):
        left, now, total = work.copy(), 0, 0
        patience = rng.random()
        while left.any():
            here = np.flatnonzero((arrival <= now) & (left > 0))
            now += 1
            if here.size:
                shortest = here[np.argmin(left[here])]
                chosen = shortest if rng.random() < patience else rng.choice(here)
                left[chosen] -= 1
                total += (now - arrival[chosen]) * (left[chosen] == 0)
        assert total >= least - 1e-9
