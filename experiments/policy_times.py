"""How long one decision of an exported policy takes, in one thread of a process of its own."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from servegym.agents.serving.artifact.load import ExportedPolicy, load_artifact
from servegym.agents.serving.artifact.schema import REPLICA_FEATURES, SETTING_FEATURES
from servegym.agents.serving.routing.fleet_view import FleetView
from servegym.agents.serving.routing.learned_router import LearnedRouter
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import Router

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What libraries of linear algebra ask, once, when they are loaded."""


Work = Callable[[int], object]
"""One decision, about the k-th of NUM_INPUTS inputs."""

NUM_INPUTS = 100


def decision_times(
    folder: Path, sizes: list[int], decisions: int, backends: list[str]
) -> list[dict[str, Any]]:
    """Median and 99th percentile in microseconds, by fleet size, backend and what is timed.

    `scores`: `score_one` of inputs that are there. Of routers also `features and scores`, the rows of a fleet
    whose replicas have all reported, and their scores; and `route`, all of a router's work on a request.
    """
    context = multiprocessing.get_context("spawn")
    with _one_thread(), ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(_measure, folder, sizes, decisions, backends).result()


def _measure(folder: Path, sizes: list[int], decisions: int, backends: list[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    policies = {name: load_artifact(folder, name) for name in backends}
    for size in sizes:
        for name, policy in policies.items():
            for what, work in _decisions(policy, size):
                times_us = _times_us(work, decisions)
                p50_us, p99_us = np.percentile(times_us, [50, 99]).tolist()
                found.append(
                    {"num_replicas": size, "backend": name, "what": what, "p50_us": p50_us, "p99_us": p99_us}
                )
    return found


def _times_us(work: Work, decisions: int) -> np.ndarray:
    for k in range(max(decisions // 10, 1)):
        work(k % NUM_INPUTS)
    times_ns = np.empty(decisions)
    for k in range(decisions):
        begin_ns = time.perf_counter_ns()
        work(k % NUM_INPUTS)
        times_ns[k] = time.perf_counter_ns() - begin_ns
    return times_ns / 1e3


def _decisions(policy: ExportedPolicy, size: int) -> Iterator[tuple[str, Work]]:
    from servegym.agents.serving.artifact.golden import plausible_observation

    level = policy.description["level"]
    batch = plausible_observation(level, np.random.default_rng(size), NUM_INPUTS, size)
    each = [{key: array[k].copy() for key, array in batch.items()} for k in range(NUM_INPUTS)]
    yield "scores", lambda k: policy.score_one(each[k])
    if level != "scheduler":
        fleet = _reported_fleet(batch["replicas"][0])
        learned = LearnedRouter(
            policy, dict(zip(SETTING_FEATURES, batch["setting"][0].tolist(), strict=True))
        )
        yield "features and scores", lambda k: learned.scores(each[k]["request"], fleet.rows(0.0))
        router = Router(learned, fleet, clock=lambda: 0.0)
        requests = [RoutedRequest(str(k), *each[k]["request"][:2].tolist()) for k in range(NUM_INPUTS)]
        yield "route", lambda k: router.route(requests[k])


def _reported_fleet(rows: np.ndarray) -> FleetView:
    fleet = FleetView([f"10.0.0.{i}:8000" for i in range(len(rows))])
    for name, row in zip(fleet.names, rows.tolist(), strict=True):
        fleet.report(name, dict(zip(REPLICA_FEATURES, row, strict=True)), 0.0)
    return fleet


@contextmanager
def _one_thread() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
