"""Small random clusters, workloads and autoscalers, and what two simulators must agree on."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from servegym.envs.sim.batch.autoscaler import Autoscaler
from servegym.envs.sim.batch.cluster import BatchCluster, Delays
from servegym.envs.sim.batch.model import ServedModel
from servegym.envs.sim.batch.simulate import BatchResults, simulate_batches
from servegym.envs.workloads.batch_workload import BatchWorkload
from tests.reference.batch.autoscaling import Autoscaling, Signal
from tests.reference.batch.results import BatchResults as ReferenceResults
from tests.reference.batch.simulate import simulate

GRID_S = 1 / 1024
"""Cases on a grid have all times at multiples of this: exact in float64, so events coincide."""


@dataclass
class Case:
    """What both simulators are given; `wanted` GPUs at each call of the autoscaler, none without one."""

    rng: np.random.Generator
    on_grid: bool
    cluster: BatchCluster
    workload: BatchWorkload
    wanted: list[int]
    every_s: float = math.inf
    startup_s: float = 0.0
    initial: int = 1
    signals: list[np.ndarray] = field(default_factory=list)

    def seconds(self, low: float, high: float) -> float:
        """A random time, on the grid if the case is."""
        return random_seconds(self.rng, low, high, self.on_grid)


def random_seconds(rng: np.random.Generator, low: float, high: float, on_grid: bool) -> float:
    """Uniform from `low` to `high`, or the multiple of `GRID_S` below it that is not below `low`."""
    seconds = float(rng.uniform(low, high))
    return math.ceil(max(low, seconds) / GRID_S) * GRID_S if on_grid else seconds


def random_case(seed: int) -> Case:
    """1 to 4 models on 1 to 5 GPUs: any law, delays or none, memory limited or not, bursts, any load."""
    rng = np.random.default_rng(seed)
    on_grid = bool(rng.integers(2))
    num_models, num_gpus = int(rng.integers(1, 5)), int(rng.integers(1, 6))
    delays = Delays(*(rng.integers(2) * random_seconds(rng, 0.0005, 0.004, on_grid) for _ in range(3)))
    models = tuple(random_model(rng, on_grid, delays) for _ in range(num_models))
    memory = math.inf
    if rng.random() < 0.3:
        sizes = sorted(model.memory_bytes for model in models)
        memory = max(1.0, float(rng.integers(sum(sizes[-2:]), sum(sizes) + 2)))
    cluster = BatchCluster(models, num_gpus, delays, memory)

    count = int(rng.integers(1, 80))
    per_request = np.mean([model.latency_s[-1] / len(model.latency_s) for model in models])
    gaps = rng.exponential(per_request / num_gpus / rng.choice([0.1, 0.5, 1.0, 2.0]), count)
    gaps *= rng.random(count) > rng.choice([0.0, 0.5, 0.8])  # bursts
    if on_grid:
        gaps = np.round(gaps / GRID_S) * GRID_S
    if rng.random() < 0.2:  # as if far in between
        gaps[rng.integers(count)] += 12.0
    workload = BatchWorkload("random", np.cumsum(gaps), rng.integers(0, num_models, count))
    case = Case(rng, on_grid, cluster, workload, [])
    if rng.random() < 0.4:
        case.every_s = random_seconds(rng, 0.02, 0.2, on_grid)
        case.startup_s = float(rng.integers(2)) * random_seconds(rng, 0.01, 0.3, on_grid)
        case.initial = int(rng.integers(1, num_gpus + 1))
        case.wanted = [int(wanted) for wanted in rng.integers(1, num_gpus + 1, 50)]
    return case


def random_model(rng: np.random.Generator, on_grid: bool, delays: Delays) -> ServedModel:
    """A linear law, or a table without any structure; an objective that a batch or several can meet."""
    max_batch = int(rng.choice([1, 2, 5, 16]))
    if rng.integers(2):
        steps = np.full(max_batch, random_seconds(rng, 0.001, 0.004, on_grid))
    else:
        steps = np.array(
            [rng.integers(3) * random_seconds(rng, 0.0005, 0.004, on_grid) for _ in range(max_batch)]
        )
    latency_s = random_seconds(rng, 0.001, 0.02, on_grid) + np.cumsum(steps)
    least_s = float(latency_s[0]) + delays.lead_s(1) + delays.response_s
    slo_s = least_s + rng.integers(2) * random_seconds(rng, 0.001, 3 * float(latency_s[-1]), on_grid)
    return ServedModel(
        "random",
        tuple(latency_s.tolist()),
        math.inf if rng.random() < 0.1 else float(slo_s),
        tuple(rng.random(max_batch).tolist()) if rng.integers(2) else (),
        random_seconds(rng, 0.0, 0.03, on_grid),
        float(rng.integers(0, 5)),
    )


def run_both(
    case: Case, scheduler: Any, reference: Any, parameters: dict[str, Any] | None = None
) -> tuple[BatchResults, ReferenceResults]:
    """The case under a `BatchScheduler`, and under the reference's by name or class. Asserts equality."""
    fast_signals: list[np.ndarray] = []
    slow_signals: list[Signal] = []

    def scale(signal: np.ndarray, _parameters: np.ndarray, _memory: np.ndarray, wanted: np.ndarray) -> None:
        wanted[0] = case.wanted[len(fast_signals) % len(case.wanted)]
        fast_signals.append(signal.copy())

    def scale_slowly(signal: Signal) -> int:
        slow_signals.append(signal)
        return case.wanted[(len(slow_signals) - 1) % len(case.wanted)]

    timing = (case.every_s, case.startup_s, case.initial)
    fast = simulate_batches(
        case.cluster,
        case.workload,
        scheduler,
        Autoscaler("scripted", scale, *timing) if case.wanted else None,
        log=True,
    )
    slow = simulate(
        case.cluster,
        case.workload,
        reference,
        parameters,
        Autoscaling(scale_slowly, *timing) if case.wanted else None,
    )
    assert_same(fast, slow)
    slow_rows = [list(vars(signal).values()) for signal in slow_signals]
    np.testing.assert_allclose(np.array(fast_signals), np.array(slow_rows), rtol=1e-9, atol=1e-12)
    return fast, slow


def assert_same(fast: BatchResults, slow: ReferenceResults) -> None:
    """Requests to the bit; sums up to the order of their terms."""
    for name in ("outcome", "gpu", "batch_size", "start_s", "end_s"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(slow, name), err_msg=name)
    for name in ("num_batches", "num_preempted", "duration_s"):
        assert getattr(fast, name) == getattr(slow, name), name
    for name in ("energy_j", "gpu_busy_s", "gpu_used_s", "bad_share"):
        np.testing.assert_allclose(
            getattr(fast, name), getattr(slow, name), rtol=1e-9, atol=1e-12, err_msg=name
        )
    assert fast.batches is not None
    rows = sorted((b.start_s, b.gpu, b.model, b.size, b.end_s) for b in slow.batches)
    columns = [fast.batches[name] for name in ("start_s", "gpu", "model", "num_requests", "end_s")]
    assert sorted(zip(*(column.tolist() for column in columns), strict=True)) == rows
