"""Actions, events, memory and autoscaling."""

import math

import numpy as np
import pytest

from servegym.costmodels.errors import InputError
from servegym.envs.sim.batch.cluster import BatchCluster, Delays
from servegym.envs.sim.batch.model import ServedModel
from servegym.envs.workloads.batch_workload import BatchWorkload
from tests.reference.batch.autoscaling import Autoscaling
from tests.reference.batch.fleet import Fleet
from tests.reference.batch.hand import UNIT_S, batches, model, run
from tests.reference.batch.request import Request
from tests.reference.batch.simulate import simulate


def fleet_with(waiting, num_gpus=1):
    fleet = Fleet(BatchCluster((model(slo=50),), num_gpus, Delays(UNIT_S, UNIT_S, 0.0)), num_gpus)
    fleet.queues[0] = [Request(i, 0, 0.0, 50 * UNIT_S) for i in range(waiting)]
    return fleet


def test_a_batch_starts_when_its_data_and_its_gpu_are_there():
    fleet = fleet_with(5)
    first = fleet.dispatch(0, fleet.gpus[0], 2)
    second = fleet.dispatch(0, fleet.gpus[0], 3)
    assert [first.start_s / UNIT_S, first.end_s / UNIT_S] == [3, 9]
    assert [second.start_s / UNIT_S, second.end_s / UNIT_S] == [9, 16]
    assert fleet.gpus[0].free_at / UNIT_S == 16


def test_preempted_requests_go_back_in_order():
    fleet = fleet_with(3)
    fleet.dispatch(0, fleet.gpus[0], 2)
    fleet.now = 2 * UNIT_S
    fleet.preempt(fleet.gpus[0])
    assert [request.index for request in fleet.queues[0]] == [0, 1, 2]
    assert fleet.gpus[0].free_at == fleet.now and fleet.gpus[0].idle


def test_what_a_scheduler_must_not_do():
    fleet = fleet_with(5)
    gpu = fleet.gpus[0]
    with pytest.raises(InputError, match="dispatch: a batch of 5"):
        fleet.dispatch(0, gpu, 5)
    with pytest.raises(InputError, match="drop: 6"):
        fleet.drop(0, 6)
    with pytest.raises(InputError, match="preempt: GPU 0 holds 0"):
        fleet.preempt(gpu)
    fleet.dispatch(0, gpu, 1)
    fleet.dispatch(0, gpu, 1)
    with pytest.raises(InputError, match="preempt: GPU 0 holds 2"):
        fleet.preempt(gpu)
    with pytest.raises(InputError, match="GPU 0 has no room"):
        fleet.dispatch(0, gpu, 1)


def test_models_used_longest_ago_make_room():
    """Two fit. Model 2 takes the place of 0, 0 then of 1 (never used), 1 of 2."""
    models = [model([5], load=10, memory=2)] * 3
    arrivals = [(0, 2), (20, 0), (40, 0), (50, 1), (70, 0)]
    results = run(arrivals, models, "triton", memory=5)
    starts = [start for _, _, start, _ in batches(results)]
    assert starts == [10, 30, 40, 60, 70]


def test_gpus_start_and_cease():
    """The second GPU is wanted from 10 to 20 and takes 3 to start."""
    signals = []

    def scale(signal):
        signals.append(signal)
        return 2 if signal.now_s == 10 * UNIT_S else 1

    rules = Autoscaling(scale, 10 * UNIT_S, 3 * UNIT_S, initial=1)
    results = run([0, 11, 12, 25], model(slo=9), "triton", num_gpus=2, max_batch=4, autoscaler=rules)
    assert batches(results) == [(0, [0], 0, 5), (0, [1], 11, 16), (1, [2], 13, 18), (0, [3], 25, 30)]
    np.testing.assert_allclose(results.gpu_used_s / UNIT_S, [30, 10])
    np.testing.assert_allclose(results.gpu_busy_s / UNIT_S, [15, 5])
    rows = [(s.active, s.arrivals, s.ended, s.bad, s.busy_s / UNIT_S) for s in signals]
    assert rows == [(1, 1, 1, 0, 5), (2, 2, 2, 0, 10)]
    assert [s.required_s / UNIT_S for s in signals] == [5, 10]


def test_a_gpu_that_ceases_ends_what_it_holds():
    """It is called back at 20 while it runs until 22, and serves again from 23 on."""
    wanted = {10: 1, 20: 2, 30: 2}
    rules = Autoscaling(
        lambda signal: wanted[round(signal.now_s / UNIT_S)], 10 * UNIT_S, 3 * UNIT_S, initial=2
    )
    results = run([0, 2, 11, 21, 31], model([20]), "triton", num_gpus=2, autoscaler=rules)
    assert batches(results) == [
        (0, [0], 0, 20),
        (1, [1], 2, 22),
        (0, [2], 20, 40),
        (1, [3], 23, 43),
        (0, [4], 40, 60),
    ]
    np.testing.assert_allclose(results.gpu_used_s / UNIT_S, [60, 60])


def test_a_queue_of_one_gpu_waits_as_long_as_theory_says():
    """M/D/1: a mean wait of `rho s / (2 (1 - rho))`."""
    for rho in (0.3, 0.6):
        arrival_s = np.cumsum(np.random.default_rng(0).exponential(1 / rho, 50_000))
        cluster = BatchCluster((ServedModel("m", (1.0,)),), 1)
        results = simulate(cluster, BatchWorkload("poisson", arrival_s, np.zeros(50_000, int)), "triton")
        waited = np.mean(results.start_s - results.arrival_s)
        assert waited == pytest.approx(rho / (2 * (1 - rho)), rel=0.02)
        assert math.isclose(results.gpu_busy_s[0], 50_000)
