"""`servegym bench elastic`: requests simulated a second under LoongServe's manager, and how long it
decides."""

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from servegym.agents.elastic_managers import make_elastic_manager
from servegym.agents.elastic_managers.loongserve import manage
from servegym.agents.elastic_systems import make_elastic_system
from servegym.envs.elastic_scenario import load_elastic_scenario
from servegym.envs.sim.elastic.loop import run
from servegym.envs.sim.elastic.manager import compiled_manage
from servegym.envs.sim.elastic.setup import Simulation
from servegym.envs.sim.elastic.simulate import check
from servegym.envs.sim.elastic.state import NUM_WAITING, PAUSED, FleetState

SCENARIO, RATE_RPS = "sharegpt_8a800", 25.0
"""The rate at which LoongServe's authors counted scale-ups."""

WAITING, INSTANCES = 1_000, 16
"""Of the decision that is timed."""


def measure_elastic(num_requests: int, passes: int) -> dict[str, Any]:
    """Of one core, medians of `passes`, after one that compiles.

    requests_per_s: of a whole workload, seconds: for it. decision_ms: to dispatch WAITING requests to
    INSTANCES idle instances and put them into batches."""
    load = (f"scenario.workload.rate_rps={RATE_RPS}", f"scenario.workload.requests={num_requests}")
    scenario = load_elastic_scenario(SCENARIO, load)
    system, workload = make_elastic_system("loongserve"), scenario.traffic.test_workload(0)
    system.serve(scenario, workload.take(slice(100)))  # compiles
    served = system.serve(scenario, workload)
    taken = _median_s(lambda: system.serve(scenario, workload), passes)
    return {
        "scenario": SCENARIO,
        "rate_rps": RATE_RPS,
        "requests": num_requests,
        "seconds": taken,
        "requests_per_s": num_requests / taken,
        "finished": int(served.finished.sum()),
        **_decision(passes),
    }


@compiled_manage
def _decide_once(state: FleetState) -> None:
    manage(state)
    state.counters[PAUSED] = 1


def _decision(passes: int) -> dict[str, Any]:
    """The first decision where all requests come at once, their arrival included."""
    fleet = (
        "scenario.fleet.tensor_parallel=1",
        f"scenario.fleet.instances={INSTANCES}",
        "scenario.fleet.instances_per_node=8",
        "scenario.fleet.kv_tokens=110000",  # the artifact's, for one GPU
        "scenario.fleet.far_link_bytes_per_s=12.5e9",
        f"scenario.workload.requests={WAITING}",
    )
    scenario = load_elastic_scenario(SCENARIO, fleet)
    workload = scenario.traffic.test_workload(0)
    at_once = replace(workload, arrival_s=np.zeros(WAITING))
    manager = replace(make_elastic_manager("loongserve"), manage=_decide_once)
    simulation = Simulation(scenario.fleet, manager, WAITING)
    seconds = []
    for _ in range(1 + passes):  # the first compiles
        simulation.begin(at_once)
        seconds.append(_seconds(lambda: run(simulation.state)))
    check(simulation)
    left = int(simulation.state.counters[NUM_WAITING])
    return {
        "waiting": WAITING,
        "instances": INSTANCES,
        "dispatched": WAITING - left,
        "decision_ms": 1e3 * median(seconds[1:]),
    }


def _median_s(play: Callable[[], object], passes: int) -> float:
    return median(_seconds(play) for _ in range(passes))


def _seconds(play: Callable[[], object]) -> float:
    """Of processor time, whose clock may tick too slowly for a few requests."""
    started = time.process_time()
    play()
    return max(time.process_time() - started, 1e-6)
