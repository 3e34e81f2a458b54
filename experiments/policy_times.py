"""How long one decision of an exported policy takes, in one thread of a process of its own."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from servegym.agents.serving.artifact import load_artifact

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What libraries of linear algebra ask, once, when they are loaded."""


def decision_times(
    folder: Path, sizes: list[int], decisions: int, backends: list[str]
) -> list[dict[str, Any]]:
    """Median and 99th percentile in microseconds of `score_one`, by fleet size and backend."""
    context = multiprocessing.get_context("spawn")
    with _one_thread(), ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(_measure, folder, sizes, decisions, backends).result()


def _measure(folder: Path, sizes: list[int], decisions: int, backends: list[str]) -> list[dict[str, Any]]:
    from servegym.agents.serving.golden import plausible_observation

    found: list[dict[str, Any]] = []
    policies = {str(name): load_artifact(folder, name) for name in backends}
    for size in sizes:
        for name, policy in policies.items():
            rng = np.random.default_rng(size)
            batch = plausible_observation(policy.description["level"], rng, 100, size)
            each = [{key: array[k].copy() for key, array in batch.items()} for k in range(100)]
            for k in range(max(decisions // 10, 1)):
                policy.score_one(each[k % 100])
            times_ns = np.empty(decisions)
            for k in range(decisions):
                observation, begin_ns = each[k % 100], time.perf_counter_ns()
                policy.score_one(observation)
                times_ns[k] = time.perf_counter_ns() - begin_ns
            p50_us, p99_us = np.percentile(times_ns / 1e3, [50, 99]).tolist()
            found.append({"num_replicas": size, "backend": name, "p50_us": p50_us, "p99_us": p99_us})
    return found


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
