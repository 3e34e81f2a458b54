"""The simulator by hand, by closed forms, and with schedulers that do wrong."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.sim.batch.actions import dispatch, drop, preempt, set_timer
from servegym.envs.sim.batch.autoscaler import NUM_ACTIVE, NUM_ARRIVED, REQUIRED_S, Autoscaler
from servegym.envs.sim.batch.cluster import BatchCluster, Delays
from servegym.envs.sim.batch.model import ServedModel
from servegym.envs.sim.batch.queues import first_idle, num_waiting
from servegym.envs.sim.batch.scheduler import BatchScheduler, compiled_schedule
from servegym.envs.sim.batch.simulate import BatchResults, simulate_batches
from servegym.envs.sim.batch.state import (
    ARRIVAL,
    DROPPED,
    FREED,
    GOOD,
    LATE,
    TIMER,
    UNSERVED,
    ClusterState,
)
from servegym.envs.workloads.batch_workload import BatchWorkload


@compiled_schedule
def in_order(state: ClusterState, event: int, subject: int) -> None:
    """All that wait go to idle GPUs, model after model."""
    for model in range(state.num_models):
        while num_waiting(state, model) > 0:
            gpu = first_idle(state)
            if gpu < 0:
                return
            dispatch(state, model, gpu, min(num_waiting(state, model), state.max_batch[model]))


IN_ORDER = BatchScheduler("in_order", in_order)


def workload(*arrivals: tuple[float, int]) -> BatchWorkload:
    """Of pairs (arrival, model)."""
    times, models = zip(*arrivals, strict=True)
    return BatchWorkload("by hand", np.array(times), np.array(models, np.int32))


def poisson(rate_rps: float, count: int) -> BatchWorkload:
    """One model's."""
    times = np.cumsum(np.random.default_rng(0).exponential(1 / rate_rps, count))
    return BatchWorkload("poisson", times, np.zeros(count, np.int32))


def played(schedule: Callable[..., None], *arrivals: tuple[float, int], gpus: int = 1) -> BatchResults:
    """Of a scheduler in Python on models with l(b) = 1, 2, 3 and 1, 1, 1."""
    models = (ServedModel("a", (1.0, 2.0, 3.0)), ServedModel("b", (1.0, 1.0, 1.0)))
    return simulate_batches(BatchCluster(models, gpus), workload(*arrivals), BatchScheduler("hand", schedule))


def test_a_batch_waits_for_its_data_and_its_gpu() -> None:
    model = ServedModel("m", (1.0, 1.5), slo_s=4.0, energy_j=(10.0, 15.0))
    cluster = BatchCluster((model,), 1, Delays(control_s=0.1, data_s=0.2, response_s=0.5))
    results = simulate_batches(cluster, workload((0.0, 0), (0.5, 0), (0.6, 0), (0.7, 0)), IN_ORDER, log=True)
    np.testing.assert_allclose(results.start_s, [0.3, 1.8, 1.8, 3.6])
    np.testing.assert_allclose(results.end_s, [1.3, 3.3, 3.3, 4.6])
    assert results.outcome.tolist() == [GOOD, GOOD, GOOD, LATE]  # deadlines 3.5, 4.0, 4.1, 4.2
    assert results.batch_size.tolist() == [1, 2, 2, 1]
    assert (results.energy_j, results.num_batches, results.bad_share) == (35.0, 3, 0.25)
    assert results.utilisation == pytest.approx(3.5 / 4.6)
    assert results.batches is not None
    np.testing.assert_allclose(results.batches["start_s"], [0.3, 1.8, 3.6])


@pytest.mark.compiled
def test_md1() -> None:
    rho = 0.7
    results = simulate_batches(
        BatchCluster((ServedModel("m", (1.0,)),), 1), poisson(rho, 1_000_000), IN_ORDER
    )
    wait_s = (results.start_s - results.arrival_s).mean()
    assert wait_s == pytest.approx(rho / (2 * (1 - rho)), rel=0.02)
    assert results.utilisation == pytest.approx(rho, rel=0.01)


def test_a_second_batch_waits_behind_the_first() -> None:
    def at_once(state: ClusterState, event: int, subject: int) -> None:
        if event == ARRIVAL:
            dispatch(state, subject, 0, 1)

    results = played(at_once, (0.0, 0), (0.1, 1))
    assert results.start_s.tolist() == [0.0, 1.0]
    with pytest.raises(
        ValueError, match="scheduler hand, at 0.200000 s: dispatch to GPU 0: must be an active"
    ):
        played(at_once, (0.0, 0), (0.1, 1), (0.2, 1))


def test_preempted_requests_wait_in_their_order() -> None:
    def schedule(state: ClusterState, event: int, subject: int) -> None:
        if event == ARRIVAL and num_waiting(state, 0) == 1 and first_idle(state) >= 0:
            dispatch(state, 0, first_idle(state), 1)
        elif event == ARRIVAL:
            preempt(state, 0)
            dispatch(state, 0, 0, 1)
        elif num_waiting(state, 0):
            dispatch(state, 0, subject, 1)

    results = played(schedule, (0.0, 0), (0.25, 0), (0.5, 0), gpus=2)
    # the first is taken off GPU 0 for itself, ahead of the third; nothing it had done counts
    assert results.start_s.tolist() == [0.5, 0.25, 1.25]
    assert (results.num_preempted, results.num_batches) == (1, 3)
    assert results.gpu_busy_s.tolist() == [1.0, 2.0]


def test_timers_and_drops() -> None:
    calls = []

    def timed(state: ClusterState, event: int, subject: int) -> None:
        calls.append((float(state.clock[0]), event, subject))
        if event == ARRIVAL:
            set_timer(state, 0, 2.0)
            set_timer(state, 2, 1.0)
        elif event == TIMER and subject == 2:
            drop(state, 0, 1)
        elif event == TIMER:
            dispatch(state, 0, 0, 1)

    results = played(timed, (0.0, 0), (0.5, 0))
    assert calls == [(0, ARRIVAL, 0), (0.5, ARRIVAL, 0), (1, TIMER, 2), (2, TIMER, 0), (3, FREED, 0)]
    assert results.outcome.tolist() == [DROPPED, GOOD]
    assert math.isnan(results.start_s[0])
    assert results.gpu.tolist() == [-1, 0]


def test_what_nobody_serves_ends_the_simulation() -> None:
    def ticking(state: ClusterState, event: int, subject: int) -> None:
        set_timer(state, 0, float(state.clock[0]) + 1)

    results = played(ticking, (5.0, 0))
    assert results.outcome.tolist() == [UNSERVED]
    assert results.duration_s == pytest.approx(105.0)


def test_wrong_actions_are_named() -> None:
    def too_many(state: ClusterState, event: int, subject: int) -> None:
        dispatch(state, 0, 0, 2)

    def too_many_drops(state: ClusterState, event: int, subject: int) -> None:
        drop(state, 0, 2)

    def idle_preempted(state: ClusterState, event: int, subject: int) -> None:
        preempt(state, 0)

    def raises(state: ClusterState, event: int, subject: int) -> None:
        raise KeyError("mine")

    with pytest.raises(ValueError, match="dispatch of 2 requests of model 0: must be at least 1, at most"):
        played(too_many, (0.0, 0))
    with pytest.raises(ValueError, match="drop of 2 requests of model 0: must be at most its queue"):
        played(too_many_drops, (0.0, 0))
    with pytest.raises(ValueError, match="preemption of GPU 0: must have exactly one batch"):
        played(idle_preempted, (0.0, 0))
    with pytest.raises(KeyError, match="mine"):
        played(raises, (0.0, 0))


def test_models_are_loaded_and_the_least_recently_used_leave() -> None:
    models = tuple(ServedModel(name, (1.0,), load_s=5.0, memory_bytes=4.0) for name in "abc")
    cluster = BatchCluster(models, 1, gpu_memory_bytes=8.0)
    results = simulate_batches(cluster, workload((1.0, 0), (10.0, 2), (20.0, 0), (30.0, 1)), IN_ORDER)
    # a and b are there; c evicts b, which was never used; a is still there; b evicts c
    assert results.start_s.tolist() == [1.0, 15.0, 20.0, 35.0]


def test_an_autoscaler_starts_and_stops_gpus() -> None:
    signals = []

    def scale(signal: np.ndarray, parameters: np.ndarray, memory: np.ndarray, wanted: np.ndarray) -> None:
        signals.append(signal.copy())
        wanted[0] = 3 if signal[NUM_ARRIVED] else 1

    autoscaler = Autoscaler("mine", scale, every_s=10.0, startup_s=2.0, initial=1)
    cluster = BatchCluster((ServedModel("m", (1.0, 1.0)),), 3)
    arrivals = [(1.0, 0), (1.1, 0), (1.2, 0), (11.0, 0), (11.0, 0), (12.5, 0), (35.0, 0)]
    results = simulate_batches(cluster, workload(*arrivals), IN_ORDER, autoscaler)
    assert results.gpu.tolist() == [0, 0, 0, 0, 0, 1, 0]
    assert results.start_s.tolist() == [1.0, 2.0, 2.0, 11.0, 12.0, 12.5, 35.0]
    assert [signal[NUM_ARRIVED] for signal in signals] == [3, 3, 0]
    assert [signal[NUM_ACTIVE] for signal in signals] == [1, 3, 3]
    assert signals[0][REQUIRED_S] == pytest.approx(1.5)  # two in a batch of 1 s
    assert results.gpu_used_s.tolist() == [36.0, 20.0, 20.0]


def test_an_autoscaler_that_asks_for_too_many() -> None:
    def greedy(signal: np.ndarray, parameters: np.ndarray, memory: np.ndarray, wanted: np.ndarray) -> None:
        wanted[0] = 4

    cluster = BatchCluster((ServedModel("m", (1.0,)),), 3)
    with pytest.raises(ValueError, match="autoscaler asks for 4 GPUs: must be 1 to 3"):
        simulate_batches(cluster, workload((0.0, 0), (20.0, 0)), IN_ORDER, Autoscaler("mine", greedy, 10.0))
    with pytest.raises(
        InputError, match="autoscaler mine: initial = 9: must be at most the cluster's 3 GPUs"
    ):
        simulate_batches(cluster, workload((0.0, 0)), IN_ORDER, Autoscaler("mine", greedy, 10.0, initial=9))


def test_models_of_a_workload_must_be_there() -> None:
    cluster = BatchCluster((ServedModel("m", (1.0,)),), 1)
    with pytest.raises(InputError, match="workload by hand: model 1: must be below the cluster's 1"):
        simulate_batches(cluster, workload((0.0, 1)), IN_ORDER)
