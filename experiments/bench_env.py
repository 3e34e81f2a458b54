"""`servegym bench env`: routing decisions per second, in one process and in several side by side."""

import multiprocessing
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from servegym.envs.routing.vector import RoutingVectorEnv
from servegym.envs.scenario import Scenario
from servegym.envs.scenario_config import ScenarioConfig


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
