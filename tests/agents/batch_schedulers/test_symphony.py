"""Symphony by hand; its comparison with the reference is in test_against_reference.py."""

import math

import numpy as np
import pytest

from servegym.agents.batch_schedulers import make_batch_scheduler
from servegym.costmodels.batch import LinearBatchLatency
from servegym.costmodels.errors import InputError
from servegym.envs.sim.batch.cluster import BatchCluster
from servegym.envs.sim.batch.model import ServedModel
from servegym.envs.sim.batch.simulate import BatchResults, simulate_batches
from servegym.envs.sim.batch.state import DROPPED, GOOD
from servegym.envs.workloads.batch_workload import BatchWorkload

MODEL = ServedModel("m", (2.0, 3.0, 4.0, 5.0), slo_s=10.0)  # the first target: 4


def served(arrivals: list[float], gpus: int = 1, slo_s: float = 10.0, **parameters: object) -> BatchResults:
    """Without delays or margin."""
    model = ServedModel("m", MODEL.latency_s, slo_s)
    workload = BatchWorkload("by hand", np.array(arrivals), np.zeros(len(arrivals), np.int32))
    scheduler = make_batch_scheduler("symphony", margin_s=0.0, **parameters)
    return simulate_batches(BatchCluster((model,), gpus), workload, scheduler)


@pytest.mark.parametrize(
    "condition, starts_s",
    [
        ("frontrun", [6.5, 6.5]),  # of two: 10 - l(3), which is past when the second comes
        ("eager", [0.0, 6.5]),
        ("latest", [7.0, 7.0]),  # 10 - l(2)
        ("timeout", [2.0, 8.5]),
    ],
)
def test_when_a_batch_starts(condition: str, starts_s: list[float]) -> None:
    results = served([0.0, 6.5], condition=condition, timeout_share=0.2)
    assert results.start_s.tolist() == starts_s
    assert results.bad_share == 0


def test_a_full_batch_does_not_wait() -> None:
    assert served([0.0, 0.1, 0.2, 0.3]).start_s.tolist() == [0.3] * 4


def test_the_candidate_that_must_start_first_gets_the_gpu() -> None:
    slow = ServedModel("slow", (5.0,), slo_s=20.0)
    fast = ServedModel("fast", (1.0,), slo_s=7.5)
    workload = BatchWorkload("by hand", np.array([0.0, 1.0, 2.0]), np.array([0, 0, 1], np.int32))
    results = simulate_batches(BatchCluster((slow, fast), 1), workload, make_batch_scheduler("symphony"))
    assert results.start_s.tolist() == [0.0, 6.0, 5.0]


@pytest.mark.parametrize(
    "drop, outcome",
    [("window", [GOOD, DROPPED, GOOD, GOOD]), ("timeout", [GOOD, GOOD, DROPPED, DROPPED])],
)
def test_window_drops_the_old_for_a_batch_of_the_target_size(drop: str, outcome: list[int]) -> None:
    # At 2 the second (deadline 4.5) can be served alone or not at all; the target at 2 requests/s is 2, and
    # the last two (deadlines 5.4, 5.5) can be served together now or not at all.
    results = served([0.0, 0.1, 1.0, 1.1], condition="eager", drop=drop, slo_s=4.4)
    assert results.outcome.tolist() == outcome


def test_lowest_number_consolidates() -> None:
    arrivals = [3.0 * i for i in range(20)]
    spread = served(arrivals, gpus=3, condition="eager")
    packed = served(arrivals, gpus=3, condition="eager", gpu="lowest_number")
    assert set(spread.gpu.tolist()) == {0, 1, 2}
    assert set(packed.gpu.tolist()) == {0}


def test_without_an_objective_eager_serves_whoever_waits() -> None:
    results = served([0.0, 0.5, 0.6, 0.7, 0.8, 0.9], condition="eager", slo_s=math.inf)
    assert results.batch_size.tolist() == [1, 4, 4, 4, 4, 1]
    assert results.bad_share == 0


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"condition": "soon"}, "batch_scheduler.condition = soon: must be one of frontrun, eager"),
        ({"drop": "all"}, "batch_scheduler.drop = all: must be one of window, timeout"),
        ({"gpu": "best"}, "batch_scheduler.gpu = best: must be one of longest_idle, lowest_number"),
        ({"timeout_share": 2.0}, "batch_scheduler.timeout_share = 2.0: must be from 0 to 1"),
        ({"margin_s": -1.0}, "batch_scheduler.margin_s = -1.0: must be at least 0 and finite"),
        ({"size": 1}, "batch_scheduler symphony:"),
    ],
)
def test_bad_parameters(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_batch_scheduler("symphony", **parameters)


def test_unknown_scheduler() -> None:
    with pytest.raises(InputError, match="batch_scheduler = nobody: must be one of"):
        make_batch_scheduler("nobody")


@pytest.mark.compiled
@pytest.mark.parametrize(
    "law, slo_s, goodput_rps",
    [((1.053e-3, 5.072e-3), 25e-3, 5360.0), ((5.090e-3, 18.368e-3), 70e-3, 954.0)],
)
def test_goodput_of_an_independent_simulation(
    law: tuple[float, float], slo_s: float, goodput_rps: float
) -> None:
    """97 % of what another simulation found can be served, 103 % cannot (8 GPUs, Poisson, 1 % bad)."""
    model = ServedModel.of_law("m", LinearBatchLatency(*law), 64, slo_s)
    gaps = np.random.default_rng(0).exponential(1.0, 100_000)
    scheduler = make_batch_scheduler("symphony", margin_s=0.0)
    bad = []
    for share in (0.97, 1.03):
        arrivals = np.cumsum(gaps) / (goodput_rps * share)
        workload = BatchWorkload("poisson", arrivals, np.zeros(len(gaps), np.int32))
        bad.append(simulate_batches(BatchCluster((model,), 8), workload, scheduler).bad_share)
    assert bad[0] <= 0.01 < bad[1]
