"""Seconds from the start of a process to its first results: all to compile, and then from cache."""

import subprocess
import sys
import tempfile
from typing import NamedTuple

SIMULATOR = """
from servegym.agents.heuristics import make_router
from servegym.envs.scenario import load_scenario
from servegym.envs.sim.llm.simulate import simulate
scenario = load_scenario("generated_8xh100")
workload = scenario.traffic.test_workload(0).take(slice(100))
simulate(workload, make_router("round_robin"), num_replicas=8, engine=scenario.engine, cost=scenario.cost)
"""

ENVIRONMENT = """
import gymnasium
env = gymnasium.make("servegym.envs:{env_id}", scenario={scenario!r})
env.reset(seed=0)
env.step(env.unwrapped.action_masks().argmax())
"""

TIMED = """
import os, time
started = time.perf_counter()
os.environ["NUMBA_CACHE_DIR"] = {cache!r}
{script}
print(time.perf_counter() - started)
"""


class FirstCall(NamedTuple):
    """Seconds: cold, with everything to compile; cached, in the next process."""

    cold_s: float
    cached_s: float


def simulator_first_call() -> FirstCall:
    """To the end of a first short simulation, imports included."""
    return _timed(SIMULATOR)


def environment_first_call(env_id: str, scenario: str) -> FirstCall:
    """To the end of the first step of an environment, imports included."""
    return _timed(ENVIRONMENT.format(env_id=env_id, scenario=scenario))


def _timed(script: str) -> FirstCall:
    """Of two processes one after the other, with a cache of compiled code of their own."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-c", TIMED.format(cache=cache, script=script)]
        cold_s, cached_s = (
            float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for _ in range(2)
        )
    return FirstCall(cold_s, cached_s)
