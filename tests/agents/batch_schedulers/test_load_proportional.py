"""The rule of the autoscaler, by hand, and on a cluster."""

import numpy as np
import pytest

from servegym.agents.batch_schedulers import make_batch_scheduler
from servegym.agents.batch_schedulers.load_proportional import load_proportional
from servegym.costmodels.errors import InputError
from servegym.envs.sim.batch.autoscaler import (
    BUSY_S,
    NOW_S,
    NUM_ACTIVE,
    NUM_BAD,
    NUM_ENDED,
    REQUIRED_S,
    SIGNAL_COLUMNS,
    WINDOW_S,
)
from servegym.envs.sim.batch.cluster import BatchCluster
from servegym.envs.sim.batch.simulate import simulate_batches
from servegym.envs.workloads.batch_workload import BatchWorkload
from tests.agents.batch_schedulers.clusters import model_of


class Asked:
    """An autoscaler whose answers are taken; windows of 1 s."""

    def __init__(self, active: int, **parameters: float) -> None:
        scaler = load_proportional(20, every_s=1.0, **parameters)  # type: ignore[arg-type]
        self.scale = getattr(scaler.scale, "py_func", scaler.scale)
        self.parameters, self.memory = scaler.parameters, np.zeros(scaler.memory_size)
        self.active, self.now_s = active, 0.0

    def answer(self, required_s: float, num_bad: int = 0, busy_s: float = 1e3) -> int:
        """GPUs wanted after a window in which 100 requests ended."""
        self.now_s += 1.0
        signal = np.zeros(SIGNAL_COLUMNS)
        signal[[NOW_S, NUM_ACTIVE, WINDOW_S, NUM_ENDED]] = self.now_s, self.active, 1.0, 100
        signal[[REQUIRED_S, NUM_BAD, BUSY_S]] = required_s, num_bad, busy_s
        wanted = np.zeros(1, np.int64)
        self.scale(signal, self.parameters, self.memory, wanted)
        self.active = int(wanted[0])
        return self.active


def test_what_staggered_batches_need_is_added_at_once() -> None:
    """Six GPU seconds in a second, and half as much again; more than there may be are not asked for."""
    asked = Asked(4, headroom=1.5)
    assert asked.answer(6.0) == 9
    assert asked.answer(100.0) == 20


def test_what_batches_took_is_enough_where_it_is_less() -> None:
    """Six GPU seconds at a utilisation of one half."""
    asked = Asked(4, headroom=1.5, utilisation=0.5)
    assert asked.answer(100.0, busy_s=6.0) == 12
    assert asked.answer(10.0, busy_s=100.0) == 15


def test_gpus_are_given_back_after_some_windows_down_to_the_most_of_these() -> None:
    asked = Asked(10, headroom=1.0, patience=3)
    assert [asked.answer(required_s) for required_s in (4.0, 6.0, 5.0)] == [10, 10, 6]
    assert [asked.answer(0.0) for _ in range(3)] == [6, 6, 1]


def test_a_window_that_needs_them_all_starts_the_count_anew() -> None:
    asked = Asked(10, headroom=1.0, patience=2)
    assert [asked.answer(required_s) for required_s in (4.0, 10.0, 4.0, 4.0)] == [10, 10, 10, 4]


def test_bad_windows_add_gpus_once_those_called_for_have_started() -> None:
    """They start within 2 s, and a window goes by."""
    asked = Asked(10, headroom=1.0, startup_s=2.0, growth=0.2, bad_limit=0.01)
    assert asked.answer(5.0, num_bad=1) == 10
    assert [asked.answer(5.0, num_bad=2) for _ in range(5)] == [12, 12, 12, 15, 15]


def test_bad_windows_give_none_back() -> None:
    asked = Asked(10, headroom=1.0, startup_s=100.0, patience=2)
    assert asked.answer(5.0, num_bad=50) == 12
    assert [asked.answer(5.0, num_bad=50) for _ in range(3)] == [12, 12, 12]


def test_gpus_follow_the_load() -> None:
    """Requests of 2 s each: 1 in 4 s, then 4 a second for a while, then 1 in 4 s again."""
    arrivals = np.concatenate([np.arange(0, 100, 4.0), np.arange(100, 200, 0.25), np.arange(200, 300, 4.0)])
    workload = BatchWorkload("steps", arrivals, np.zeros(arrivals.size, np.int32))
    cluster = BatchCluster((model_of(12.0, max_batch=1),), 20)
    scaler = load_proportional(20, initial=2, every_s=4.0, headroom=1.25, patience=3)
    results = simulate_batches(cluster, workload, make_batch_scheduler("symphony"), scaler)
    by_phase = [results.gpu[(arrivals >= start) & (arrivals < start + 70)] for start in (30, 130, 230)]
    assert by_phase[0].max() < 2
    assert by_phase[1].max() in (8, 9)
    assert by_phase[2].max() < 2
    assert results.bad_share < 0.1
    assert results.gpu_used_s.sum() < 0.35 * 20 * results.duration_s


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match=r"^autoscaler.headroom = 0.5: must be at least 1 and finite$"):
        load_proportional(20, headroom=0.5)
