"""What the claims about batch serving compute, on cases with known answers."""

import numpy as np
import pytest

from servegym.agents.batch_schedulers import make_batch_scheduler
from servegym.envs.sim.batch.cluster import BatchCluster
from servegym.envs.sim.batch.model import ServedModel
from servegym.envs.workloads.batch_workload import BatchWorkload
from servegym.experiments.claims import batch_load, symphony, symphony_day, symphony_fleet
from servegym.experiments.claims.clairvoyant_fleet import fewest_gpus

SYMPHONY = make_batch_scheduler("symphony")


def one_at_a_time(num_gpus: int) -> BatchCluster:
    """Each request takes a GPU for a second, and can wait for half of one."""
    return BatchCluster((ServedModel("one", (1.0,), 1.5),), num_gpus)


def at(*arrival_s: float) -> BatchWorkload:
    """Requests for that model."""
    return BatchWorkload("by hand", np.array(arrival_s), np.zeros(len(arrival_s), np.int32))


def test_first_and_last_crossing_of_a_share_that_rises_falls_and_rises() -> None:
    first, last = batch_load.crossings_rps(lambda rate: rate < 200 or 300 < rate < 400, 100, 1_000)
    assert 198 <= first < 200
    assert 396 <= last < 400
    first, last = batch_load.crossings_rps(lambda rate: rate < 200, 100, 1_000)
    assert first == last


def test_goodput_of_one_gpu_and_even_gaps_is_its_rate() -> None:
    """One request a second, each half of a second later than the one before it where more come."""
    even = at(*np.arange(300.0))
    assert batch_load.goodput_rps(one_at_a_time(1), SYMPHONY, even, 3.0) == pytest.approx(1.0, rel=0.02)
    assert batch_load.goodput_rps(one_at_a_time(3), SYMPHONY, even, 3.0) == pytest.approx(3.0, rel=0.02)


@pytest.mark.parametrize("guess", [1, 3, 5, 8, 40])
def test_fewest_is_the_smallest_that_holds(guess: int) -> None:
    assert symphony_fleet.fewest(lambda number: number >= 5, guess) == 5
    assert symphony_fleet.fewest(lambda number: True, guess) == 1


def test_the_clairvoyant_fleet_is_as_large_as_what_comes_at_once() -> None:
    requests = at(1, 4, 12, 12, 12, 17, 17, 35)
    found = fewest_gpus(one_at_a_time(4), requests, SYMPHONY, 10.0, bad_share=0.0)
    assert found.tolist() == [1, 3, 1, 1]
    found = fewest_gpus(one_at_a_time(2), requests, SYMPHONY, 10.0, bad_share=0.0)
    assert found.tolist() == [1, 2, 1, 1]  # all there are
    found = fewest_gpus(one_at_a_time(4), requests, SYMPHONY, 10.0, bad_share=0.2)
    assert found.tolist() == [1, 2, 1, 1]  # one of five may be bad


def test_what_an_interval_begins_with_counts() -> None:
    """At 10 two GPUs are still busy with those before, whose own interval is another."""
    requests = at(9.9, 9.9, 10.1)
    found = fewest_gpus(one_at_a_time(4), requests, SYMPHONY, 10.0, bad_share=0.0)
    assert found.tolist() == [2, 3]
    alone = fewest_gpus(one_at_a_time(4), requests, SYMPHONY, 10.0, bad_share=0.0, before_s=0.0)
    assert alone.tolist() == [2, 1]


def test_the_networks_have_the_bounds_of_the_law() -> None:
    bounds = symphony.measure_bounds()
    assert [round(values[0]) for values in bounds.values()] == [5839, 4501, 1083, 713]


@pytest.mark.slow
@pytest.mark.compiled
def test_every_figure_of_symphony_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symphony, "LADDER_SEEDS", range(1))
    monkeypatch.setattr(symphony_fleet, "LARGE_SEEDS", range(1))
    for module in (symphony, symphony_fleet, symphony_day):
        monkeypatch.setattr(module, "SEEDS", range(1))
    for claim in symphony.PAPER.claims:
        measured = claim.measure()
        assert set(measured) == {figure.name for figure in claim.figures}
        assert all(len(values) == 1 and np.isfinite(values).all() for values in measured.values())
