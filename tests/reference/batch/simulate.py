"""The loop over events: what goes in, and in which order things happen."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from servegym.envs.sim.batch.cluster import BatchCluster
from servegym.envs.workloads.batch_workload import BatchWorkload
from tests.reference.batch.autoscaling import Autoscaler, Autoscaling
from tests.reference.batch.checks import check_end
from tests.reference.batch.fleet import Fleet
from tests.reference.batch.gpu import Gpu
from tests.reference.batch.request import Request
from tests.reference.batch.results import BatchResults, results_of
from tests.reference.batch.schedulers import SCHEDULERS

PATIENCE_S = 100.0


def simulate(
    cluster: BatchCluster,
    workload: BatchWorkload,
    scheduler: str | Callable[..., Any],
    parameters: Mapping[str, Any] | None = None,
    autoscaler: Autoscaling | None = None,
) -> BatchResults:
    """Serve a workload to its end under a scheduler, asserting the invariants.

    `scheduler` is the name of a class in `SCHEDULERS`, or one like these; `parameters` are the class's.
    """
    fleet = Fleet(cluster, autoscaler.initial if autoscaler else cluster.num_gpus)
    requests = [
        Request(index, int(model), float(arrival_s), fleet.deadline(int(model), float(arrival_s)))
        for index, (arrival_s, model) in enumerate(zip(workload.arrival_s, workload.model, strict=True))
    ]
    make = SCHEDULERS[scheduler] if isinstance(scheduler, str) else scheduler
    policy = make(fleet, **(parameters or {}))
    scaling = Autoscaler(autoscaler, fleet) if autoscaler else None
    Loop(fleet, requests, policy, scaling).run()
    results = results_of(workload, fleet, requests, fleet.now)
    check_end(fleet, requests, results)
    return results


class Loop:
    """One event after the other, until none is left."""

    def __init__(
        self, fleet: Fleet, requests: Sequence[Request], scheduler: Any, autoscaler: Autoscaler | None
    ) -> None:
        self.fleet = fleet
        self.to_come = list(requests)
        self.num_requests = len(requests)
        self.scheduler = scheduler
        self.autoscaler = autoscaler

    def run(self) -> None:
        """Time goes on to the next event, and the first that is due happens."""
        while True:
            at = min(self.next_tick(), self.next_freed(), self.next_arrival(), *self.fleet.timers)
            if at == math.inf or self.over(at):
                return
            self.fleet.now = at
            if self.next_tick() <= at and self.autoscaler:
                self.autoscaler.ask()
            elif self.next_freed() <= at:
                self.free(at)
            elif self.next_arrival() <= at:
                self.arrive()
            else:
                self.fire(at)

    def over(self, at: float) -> bool:
        """Nothing that could still happen, at `at` or later, matters."""
        fleet = self.fleet
        if len(fleet.ended) == self.num_requests:
            return True
        nothing_but_timers = not self.to_come and self.next_freed() == math.inf
        return nothing_but_timers and at > fleet.last_progress_s + PATIENCE_S

    def next_tick(self) -> float:
        """The autoscaler's next instant; none once all requests have come."""
        return self.autoscaler.next_s if self.autoscaler and self.to_come else math.inf

    def freed_at(self, gpu: Gpu) -> float:
        """When a batch of it ends, or it becomes active."""
        ends = gpu.held[0].end_s if gpu.held else math.inf
        starts = gpu.active_at if gpu.state == "starting" else math.inf
        return min(ends, starts)

    def next_freed(self) -> float:
        """Of all GPUs."""
        return min(self.freed_at(gpu) for gpu in self.fleet.gpus)

    def next_arrival(self) -> float:
        """Of the requests that are still to come."""
        return self.to_come[0].arrival_s if self.to_come else math.inf

    def free(self, now: float) -> None:
        """The GPU with the smallest number that is freed now."""
        gpu = next(gpu for gpu in self.fleet.gpus if self.freed_at(gpu) <= now)
        if gpu.held and gpu.held[0].end_s <= now:
            self.fleet.end_batch(gpu)
        if gpu.state == "starting" and gpu.active_at <= now:
            gpu.state = "active"
            gpu.last_end_s = max(gpu.active_at, gpu.last_end_s)
        self.scheduler.schedule("FREED", gpu.number)

    def arrive(self) -> None:
        """The next request of the workload."""
        request = self.to_come.pop(0)
        self.fleet.queues[request.model].append(request)
        self.fleet.last_progress_s = self.fleet.now
        if self.autoscaler:
            self.autoscaler.arrivals[request.model] += 1
        self.scheduler.schedule("ARRIVAL", request.model)

    def fire(self, now: float) -> None:
        """The timer with the smallest number that is due."""
        number = next(k for k, at in enumerate(self.fleet.timers) if at <= now)
        self.fleet.timers[number] = math.inf
        self.scheduler.schedule("TIMER", number)
