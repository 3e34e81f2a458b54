"""The loop over instants: what goes in, and in which order things happen."""

import math
from typing import Any, Protocol

from servegym.envs.workloads.workload import Workload
from tests.reference.elastic.fleet import Fleet
from tests.reference.elastic.request import Request
from tests.reference.elastic.results import ElasticResults, results_of


class Manager(Protocol):
    """Decides what runs where; one object serves one simulation, and may remember things."""

    def act(self, fleet: Fleet) -> None:
        """Called once at each instant at which something happened."""


def simulate(settings: Any, workload: Workload, manager: Manager) -> ElasticResults:
    """Serve a workload to its end, asserting the invariants; `settings` are those of an `ElasticFleet`."""
    fleet = Fleet(settings)
    columns = (workload.arrival_s, workload.prompt_tokens, workload.output_tokens)
    requests = [
        Request(index, float(arrival_s), int(prompt), int(output))
        for index, (arrival_s, prompt, output) in enumerate(zip(*columns, strict=True))
    ]
    to_come = list(requests)
    while len(fleet.ended) < len(requests):
        ends = [group.end_s for group in fleet.groups if group.end_s is not None]
        arrivals = [r.arrival_s for r in to_come]
        fleet.now = min([*ends, *arrivals], default=math.inf)
        if fleet.now == math.inf:
            break  # the rest waits for ever
        for group in [group for group in fleet.groups if group.end_s == fleet.now]:
            fleet.end_iteration(group)
        while to_come and to_come[0].arrival_s == fleet.now:
            fleet.arrive(to_come.pop(0))
        manager.act(fleet)
    check_end(fleet, requests)
    return results_of(fleet, requests)


def check_end(fleet: Fleet, requests: list[Request]) -> None:
    """Whoever has not ended waits, or its manager let it rest; times are in order."""
    resting = [r for group in fleet.groups for r in group.requests]
    everybody = sorted(r.index for r in fleet.ended + fleet.queue + resting)
    assert everybody == list(range(len(requests))), "a request got lost"
    assert fleet.groups or not fleet.kv, "KV of nobody is left"
    for r in requests:
        if r.outcome == "finished":
            assert r.arrival_s < r.first_token_s <= r.finish_s and r.out == r.output
        else:
            assert math.isnan(r.finish_s)
