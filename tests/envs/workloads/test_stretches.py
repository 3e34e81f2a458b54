"""Stretches of a trace: what may come, and how likely."""

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.workloads import Workload
from servegym.envs.workloads.stretches import Stretches


def in_a_row(count: int) -> Workload:
    """Requests told apart by their arrival."""
    return Workload("row", np.arange(count), np.ones(count, int), np.ones(count, int))


def drawn(stretches: Stretches, size: int, keep: float, times: int) -> np.ndarray:
    """(times, size) numbers of the requests of that many stretches."""
    rng = np.random.default_rng(0)
    return np.array([stretches.draw(size, keep, rng).arrival_s for _ in range(times)]).astype(int)


def test_each_request_is_kept_with_the_same_probability_wherever_the_stretch_is() -> None:
    """Gaps between neighbours are geometric, first requests uniform over all that enough follow."""
    numbers = drawn(Stretches(in_a_row(1000)), 20, 0.4, 4000)
    gaps = np.diff(numbers, axis=1).ravel()
    for gap in range(1, 5):
        expected = 0.4 * 0.6 ** (gap - 1)
        assert np.mean(gaps == gap) == pytest.approx(expected, abs=0.01)
    first = numbers[:, 0]
    shares, _ = np.histogram(first, np.arange(0, 901, 100))
    assert shares / len(first) == pytest.approx(np.full(9, 100 / 952), abs=0.02)
    assert numbers.max() == 999


def test_the_whole_trace_is_a_stretch_of_it() -> None:
    """The end of what is possible: one place only, found wherever the search begins."""
    assert (drawn(Stretches(in_a_row(30)), 30, 1.0, 5) == np.arange(30)).all()


@pytest.mark.parametrize("chained", [False, True])
def test_more_than_is_kept_is_refused(chained: bool) -> None:
    """Half of 30 requests are not 30, and 31 are never there."""
    workload = in_a_row(30)
    if chained:
        parent = np.where(np.arange(30) % 2 == 0, -1, np.arange(30) - 1)
        columns = (workload.arrival_s, 4 + np.arange(30), workload.output_tokens)
        workload = Workload("pairs", *columns, parent=parent, think_s=np.zeros(30))
    with pytest.raises(InputError, match="episode.requests = 30: must be at most the [0-9]+ requests kept"):
        Stretches(workload).draw(30, 0.5, np.random.default_rng(0))
    with pytest.raises(InputError, match="episode.requests = 31: must be at most the 30 requests kept"):
        Stretches(workload).draw(31, 1.0, np.random.default_rng(0))
