"""`servegym bench policies`: simulated requests a second under each published router and each scheduler."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from servegym.agents.heuristics import ROUTERS, make_router
from servegym.agents.schedulers import SCHEDULERS, make_scheduler
from servegym.costmodels.progress import tracked
from servegym.envs.scenario import Scenario
from servegym.envs.sim.llm.simulate import simulate
from servegym.envs.workloads import Workload
from servegym.envs.workloads.slo import SloClass
from servegym.experiments.evaluation.contenders import configured_router

SCENARIO_WITH = {
    "roles": ("disaggregated_4p4d", ()),
    "sessions": ("sessions_8xh100", ("scenario.engine.prefix_caching=false",)),
}
"""Where routers that need these are measured, and with what changed; the others where the caller says."""

TARGETS = {"router": 1e6, "queue": 3e5, "batch": 5e4}
"""Requests a second that are aimed at: of routers, and of schedulers by what they rank."""

TENANTS = 8

PREFIXES, PREFIX_TOKENS = 997, 16


def measure_policies(
    scenario: Scenario, others: Mapping[str, Scenario], workload: Workload, passes: int
) -> dict[str, list[dict[str, Any]]]:
    """Of each router and each scheduler: `name`, `scenario`, `requests_per_s` of processor time, `target`.

    Schedulers serve under round robin, at their defaults. Medians of `passes`, after one that compiles.
    others: by need, those of `SCENARIO_WITH` that are at hand; who needs another has no rate (None).
    """
    return {
        "routers": [
            _router(name, scenario, others, workload, passes)
            for name in tracked(ROUTERS, "Routers", "routers")
        ],
        "schedulers": [
            _scheduler(name, scenario, _asking_for_all(workload), passes)
            for name in tracked(SCHEDULERS, "Schedulers", "schedulers")
        ],
    }


def _asking_for_all(workload: Workload) -> Workload:
    """With whatever a scheduler may need: exact predictions, priorities, classes, tenants."""
    number = np.arange(workload.num_requests, dtype=np.int32)
    return replace(
        workload,
        predicted_output_tokens=workload.output_tokens,
        priority=number % 3,
        slo_class=(number % 2).astype(np.int16),
        slo_classes=(SloClass("tight", 0.5, 0.05), SloClass("loose", 5.0, 0.1)),
        tenant=number % TENANTS,
    )


def _with_prefixes(workload: Workload) -> Workload:
    """Each request begins like every `PREFIXES`-th other."""
    number = np.arange(workload.num_requests)
    return replace(
        workload,
        prefix_ids=number % PREFIXES,
        prefix_offsets=np.arange(workload.num_requests + 1),
        prefix_block_tokens=PREFIX_TOKENS,
    )


def _router(
    name: str, scenario: Scenario, others: Mapping[str, Scenario], workload: Workload, passes: int
) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "scenario": scenario.name, "target": TARGETS["router"]}
    needs = make_router(name).needs
    elsewhere = next((need for need in SCENARIO_WITH if need in needs), None)
    if elsewhere is not None:
        found["scenario"], _ = SCENARIO_WITH[elsewhere]
        if elsewhere not in others:
            return found | {"requests_per_s": None}
        scenario = others[elsewhere]
        workload = scenario.traffic.test_workload(0).take(slice(workload.num_requests))
        router = configured_router(name, scenario)
        return found | _rate(lambda: scenario.simulate(workload, router), workload, passes)
    if "prefixes" in needs:
        workload = _with_prefixes(workload)
    engine = replace(scenario.engine, prefix_caching="prefix_caching" in needs)
    router = configured_router(name, scenario)

    def play() -> None:
        simulate(workload, router, num_replicas=scenario.num_replicas, engine=engine, cost=scenario.cost)

    return found | _rate(play, workload, passes)


def _scheduler(name: str, scenario: Scenario, workload: Workload, passes: int) -> dict[str, Any]:
    ranking, router = make_scheduler(name), make_router("round_robin")
    served = Scenario(scenario.config, None, ranking)
    found = {"name": name, "scenario": scenario.name, "target": TARGETS[ranking.ranks]}
    return found | _rate(lambda: served.simulate(workload, router), workload, passes)


def _rate(play: Callable[[], object], workload: Workload, passes: int) -> dict[str, Any]:
    play()  # compiles, and touches the memory
    seconds = []
    for _ in range(passes):
        started = time.process_time()
        play()
        seconds.append(time.process_time() - started)
    return {"requests_per_s": workload.num_requests / statistics.median(seconds)}
