"""`servegym bench batch`: requests scheduled a second under each scheduler of batch serving."""

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from servegym.agents.batch_schedulers import BATCH_SCHEDULERS, make_batch_scheduler
from servegym.costmodels.progress import tracked
from servegym.envs.batch_scenario import BatchScenario, load_batch_scenario
from servegym.envs.sim.batch.loop import run
from servegym.envs.sim.batch.scheduler import BatchScheduler
from servegym.envs.sim.batch.setup import Simulation
from servegym.envs.sim.batch.simulate import check, results_of, simulate_batches

RATES_RPS = {"resnet50_8gpu": 2_500.0, "scale_1000gpu_100models": 75_000.0}
"""By scenario: half of what it is made for, which most schedulers can serve in time."""

PLAIN = "dispatch only"
"""Whatever waits goes as soon as a GPU is idle, models in turns; no deadlines, no timers."""


def measure_batch(num_requests: int, passes: int) -> list[dict[str, Any]]:
    """Of each scheduler at its defaults, in each scenario of RATES_RPS.

    requests_per_s: of processor time, all of a simulation; loop_requests_per_s: without setting up and
    results; both are medians of `passes`, after one that compiles. slower: the loop against that of `PLAIN`.
    bad_share: who was not answered in time.
    """
    found = []
    for name, rate_rps in RATES_RPS.items():
        load = (f"scenario.workload.rate_rps={rate_rps}", f"scenario.workload.requests={num_requests}")
        scenario = load_batch_scenario(name, load)
        schedulers = tracked(list(_schedulers()), name, "schedulers")
        of_scenario = [_measured(scenario, each, passes) for each in schedulers]
        plain = of_scenario[0]["loop_requests_per_s"]
        found += [each | {"slower": plain / each["loop_requests_per_s"]} for each in of_scenario]
    return found


def _schedulers() -> Iterator[tuple[str, BatchScheduler]]:
    yield PLAIN, make_batch_scheduler("tf_serving", timeout_s=0.0)
    for name in BATCH_SCHEDULERS:
        yield name, make_batch_scheduler(name)


def _measured(scenario: BatchScenario, named: tuple[str, BatchScheduler], passes: int) -> dict[str, Any]:
    name, scheduler = named
    workload = scenario.traffic.test_workload(0)
    simulation = Simulation(scenario.cluster, scheduler, workload.num_requests)

    def play() -> None:
        simulation.begin(workload)
        run(simulation.state)

    play()  # compiles, and touches the memory
    check(simulation)
    bad_share = results_of(simulation).bad_share
    loop_s, whole_s = [], []
    for _ in range(passes):
        simulation.begin(workload)
        loop_s.append(_seconds(lambda: run(simulation.state)))
        whole_s.append(_seconds(lambda: simulate_batches(scenario.cluster, workload, scheduler)))
    return {
        "scenario": scenario.name,
        "scheduler": name,
        "requests_per_s": workload.num_requests / median(whole_s),
        "loop_requests_per_s": workload.num_requests / median(loop_s),
        "bad_share": bad_share,
    }


def _seconds(play: Callable[[], object]) -> float:
    """Of processor time, whose clock may tick too slowly for a few requests."""
    started = time.process_time()
    play()
    return max(time.process_time() - started, 1e-6)
