"""`servegym bench stream`: a long stream of requests through a large fleet, its rate and its memory."""

import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from servegym.agents.heuristics import make_router
from servegym.costmodels.progress import progress
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.stream import SLOT_BYTES, simulate_stream
from servegym.envs.workloads import Workload

CHUNK = 65_536
"""Requests drawn at a time."""


def poisson_chunks(lengths: Workload, num_requests: int, rate_rps: float, seed: int) -> Iterator[Workload]:
    """Poisson arrivals whose prompt and output lengths are drawn, in pairs, from those of a workload."""
    rng = np.random.default_rng(seed)
    last_s = 0.0
    for first in range(0, num_requests, CHUNK):
        count = min(CHUNK, num_requests - first)
        arrival_s = last_s + np.cumsum(rng.standard_exponential(count)) / rate_rps
        last_s = float(arrival_s[-1])
        drawn = rng.integers(lengths.num_requests, size=count)
        yield Workload("poisson", arrival_s, lengths.prompt_tokens[drawn], lengths.output_tokens[drawn])


def measure_stream(
    scenario: Scenario, num_requests: int, num_replicas: int, rate_rps_per_replica: float
) -> dict[str, Any]:
    """Seconds of processor time for a stream under round robin, drawing the requests included, and memory.

    `rss_growth_mib` is by how much the process's peak grew while the stream ran.
    """
    lengths = scenario.traffic.test_workload(0)
    rate_rps = rate_rps_per_replica * num_replicas

    def play(count: int) -> tuple[int, float]:
        finished, in_system_s = 0, 0.0
        blocks = simulate_stream(
            poisson_chunks(lengths, count, rate_rps, seed=0),
            make_router("round_robin"),
            num_replicas=num_replicas,
            engine=scenario.engine,
            cost=scenario.cost,
        )
        with progress("Stream", count, "requests") as advance:
            for block in blocks:
                finished += len(block.number)
                in_system_s += float(np.sum(block.results.finish_s - block.results.arrival_s))
                advance.to(finished)
        return finished, in_system_s

    play(1000)  # compiles
    before_mib = _peak_rss_mib()
    started_s = time.process_time()
    finished, in_system_s = play(num_requests)
    seconds = time.process_time() - started_s
    return {
        "requests": finished,
        "replicas": num_replicas,
        "seconds": seconds,
        "requests_per_s": finished / seconds,
        "mean_in_flight": in_system_s / finished * rate_rps,  # Little's law
        "bytes_per_slot": SLOT_BYTES,
        "rss_growth_mib": _peak_rss_mib() - before_mib,
        "peak_rss_mib": _peak_rss_mib(),
    }


def _peak_rss_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
