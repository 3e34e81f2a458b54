"""`servegym bench simulator`: what the features of engines cost in speed, beside the plain engine."""

import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np

from servegym.agents.heuristics import make_router
from servegym.costmodels.progress import tracked
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.simulate import Results, simulate
from servegym.envs.workloads import Workload


def measure_engines(
    scenario: Scenario, workload: Workload, num_replicas: int, passes: int
) -> dict[str, dict[str, Any]]:
    """Of each feature, under round robin: `requests_per_s`, `preemptions_per_request`, and `slower`.

    That is the processor time of a pass over that of the plain engine just before, median of `passes`.
    """
    plain = scenario.engine
    scarce = replace(plain, num_kv_blocks=_scarce_blocks(plain, workload))
    urgent = replace(workload, priority=np.arange(workload.num_requests, dtype=np.int32) % 3)
    features: dict[str, tuple[Engine, Workload]] = {
        "prefix_caching": (replace(plain, prefix_caching=True), workload),
        "scarce_blocks": (scarce, workload),
        "scarce_blocks, priority": (replace(scarce, order="priority"), urgent),
        "sglang": (replace(plain, scheduler="sglang"), workload),
    }
    found = {}
    for name, (engine, requests) in tracked(features.items(), "Engines", "engines"):
        _timed(scenario, plain, workload, num_replicas)  # compiles, and touches the memory
        _, results = _timed(scenario, engine, requests, num_replicas)
        slower, seconds = [], []
        for _ in range(passes):
            plain_s, _ = _timed(scenario, plain, workload, num_replicas)
            feature_s, _ = _timed(scenario, engine, requests, num_replicas)
            slower.append(feature_s / plain_s)
            seconds.append(feature_s)
        found[name] = {
            "requests_per_s": workload.num_requests / statistics.median(seconds),
            "slower": statistics.median(slower),
            "preemptions_per_request": float(results.preemptions.mean()),
        }
    return found


def _scarce_blocks(engine: Engine, workload: Workload) -> int:
    """KV blocks for four of the longest requests: too few at times, but not for the load."""
    tokens = workload.prompt_tokens.astype(np.int64) + workload.output_tokens - 1
    return 4 * int(-(-tokens.max() // engine.block_size))


def _timed(
    scenario: Scenario, engine: Engine, workload: Workload, num_replicas: int
) -> tuple[float, Results]:
    """Seconds of processor time of one simulation, and its results."""
    router = make_router("round_robin")
    started = time.process_time()
    results = simulate(workload, router, num_replicas=num_replicas, engine=engine, cost=scenario.cost)
    return time.process_time() - started, results
