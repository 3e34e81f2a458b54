"""`servegym bench env`: decisions per second, in one process and, for routing, in several side by side."""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from servegym.envs.batching.vector import BatchingVectorEnv
from servegym.envs.routing.vector import RoutingVectorEnv
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.config import ScenarioConfig
from servegym.envs.sim.llm.decisions import NUM_CHOICES


def playing(scenario: Scenario, num_envs: int, steps: int) -> Callable[[], None]:
    """A pass of `steps` calls with random actions; episodes end and restart meanwhile. Compiled already."""
    env = RoutingVectorEnv(num_envs, scenario, copy=False)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = rng.integers(scenario.num_replicas, size=(steps, num_envs))
    env.step(actions[0])  # compiles

    def play() -> None:
        for step in range(steps):
            env.step(actions[step])

    return play


def scheduling(scenario: Scenario, num_envs: int, steps: int) -> Callable[[], None]:
    """A pass of `steps` calls of Batching with vLLM's choices, which are part of it. Compiled already.

    On one replica of the scenario with 1.3 times its share of the requests, so that they queue.
    """
    config, count = scenario.config, scenario.num_replicas
    fleet = replace(config.fleet, replicas=1)
    workload = replace(config.workload, rate_rps=1.3 * config.workload.rate_rps / count)
    alone = Scenario(replace(config, fleet=fleet, workload=workload))
    env = BatchingVectorEnv(num_envs, alone, copy=False)
    env.reset(seed=0)

    def play() -> None:
        for _ in range(steps):
            head_fits = env.action_masks()[:, 0]
            env.step(np.where(head_fits, 0, NUM_CHOICES - 1))

    play()  # compiles, and fills the queues
    return play


def decisions_per_wall_s(
    scenario: ScenarioConfig, num_envs: int, steps: int, passes: int, processes: int
) -> float:
    """Decisions per second of wall time that so many processes make together, started at the same instant.

    The best of `passes`; the slowest process of a pass counts.
    """
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(processes)
    seconds: Any = context.SimpleQueue()
    workers = [
        context.Process(target=_work, args=(scenario, num_envs, steps, passes, start, seconds))
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode != 0 for worker in workers):
        raise RuntimeError("a process that plays environments ended with an error")
    slowest = np.max([seconds.get() for _ in workers], axis=0)
    return float(processes * num_envs * steps / slowest.min())


def _work(scenario: ScenarioConfig, num_envs: int, steps: int, passes: int, start: Any, seconds: Any) -> None:
    play = playing(Scenario(scenario), num_envs, steps)
    play()
    measured = []
    for _ in range(passes):
        start.wait()
        started_s = time.perf_counter()
        play()
        measured.append(time.perf_counter() - started_s)
    seconds.put(measured)
