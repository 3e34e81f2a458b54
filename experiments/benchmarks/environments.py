"""`servegym bench env`: decisions per second, in one process and, for routing, in several side by side."""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from servegym.agents.deferred_batching import Frontrun
from servegym.agents.elastic_sequence_parallel import GainAndLoss
from servegym.envs.batching.vector import BatchingVectorEnv
from servegym.envs.deferred_batching.vector import DeferredBatchingVectorEnv
from servegym.envs.dynamic_batching.observation import QUEUE
from servegym.envs.dynamic_batching.scenario import load_dynamic_batching
from servegym.envs.dynamic_batching.vector import DynamicBatchingVectorEnv
from servegym.envs.elastic_sequence_parallel.vector import ElasticSequenceParallelVectorEnv
from servegym.envs.routing.vector import RoutingVectorEnv
from servegym.envs.scenario import Scenario
from servegym.envs.scenario.config import ScenarioConfig
from servegym.envs.sim.llm.decisions import NUM_CHOICES
from servegym.envs.two_level.vector import TwoLevelVectorEnv


def playing(scenario: Scenario, num_envs: int, steps: int) -> Callable[[], None]:
    """A pass of `steps` calls with random actions; episodes end and restart meanwhile. Compiled already.

    Where replicas are not always available the next one that is, which looking for is part of the pass.
    """
    env = RoutingVectorEnv(num_envs, scenario, copy=False)
    env.reset(seed=0)
    actions = _replicas(scenario, steps, num_envs)

    def play() -> None:
        for step in range(steps):
            drawn = actions[step]
            env.step(drawn if scenario.is_plain else _next_legal(drawn, env.action_masks()))

    env.step(_next_legal(actions[0], env.action_masks()))  # compiles
    return play


def _replicas(scenario: Scenario, steps: int, num_envs: int) -> np.ndarray:
    """int64 (steps, num_envs): random replicas."""
    return np.random.default_rng(0).integers(scenario.num_replicas, size=(steps, num_envs))


def _next_legal(actions: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """int64 (K,): from `actions` (K,) on, going round, the first legal in masks bool (K, R)."""
    count = masks.shape[1]
    around = (actions[:, None] + np.arange(count)) % count
    legal: np.ndarray = (actions + np.take_along_axis(masks, around, axis=1).argmax(axis=1)) % count
    return legal


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


def routing_and_scheduling(scenario: Scenario, num_envs: int, steps: int) -> Callable[[], None]:
    """A pass of `steps` calls of TwoLevel: random replicas, and vLLM's choices in each. Compiled already."""
    env = TwoLevelVectorEnv(num_envs, scenario, copy=False)
    env.reset(seed=0)
    replicas = _replicas(scenario, steps, num_envs)
    admit_head = scenario.num_replicas
    start = admit_head + NUM_CHOICES - 1

    def play() -> None:
        for step in range(steps):
            masks = env.action_masks()
            choices = np.where(masks[:, admit_head], admit_head, start)
            env.step(np.where(masks[:, 0], replicas[step], choices))

    play()  # compiles
    return play


def deferring(num_envs: int, steps: int) -> Callable[[], None]:
    """A pass of `steps` calls of DeferredBatching by Symphony's rule, which is part of it. Compiled already.

    In the environment's default scenario: others are of another kind.
    """
    env = DeferredBatchingVectorEnv(num_envs, copy=False)
    policy = Frontrun()
    observation, _ = env.reset(seed=0)

    def play() -> None:
        for _ in range(steps):
            env.step(policy.act(observation))  # written in place

    play()  # compiles, and fills the queues
    return play


def sharing(num_envs: int, steps: int) -> Callable[[], None]:
    """A pass of `steps` calls of ElasticSequenceParallel by a rule, which is part of it. Compiled already.

    In the environment's default scenario: others are of another kind.
    """
    env = ElasticSequenceParallelVectorEnv(num_envs, copy=False)
    policy = GainAndLoss()
    observation, _ = env.reset(seed=0)

    def play() -> None:
        for _ in range(steps):
            env.step(policy.act(observation))  # written in place

    play()  # compiles, and fills the queues
    return play


def batching(num_envs: int, steps: int) -> Callable[[], None]:
    """A pass of `steps` calls of DynamicBatching on a preset, all that wait at once. Compiled already."""
    scenario = load_dynamic_batching("inoue_v100")
    env = DynamicBatchingVectorEnv(num_envs, scenario, copy=False)
    queues = env.reset(seed=0)[0][:, QUEUE]  # a view: the next step writes into it

    def play() -> None:
        for _ in range(steps):
            env.step(np.minimum(queues, scenario.max_batch))

    play()  # compiles
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
