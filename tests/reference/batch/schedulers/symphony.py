"""Symphony (Chen et al., arXiv 2308.07470): batches are put off until just before they could grow no more."""

import math
from dataclasses import dataclass

from tests.reference.batch.fleet import Fleet
from tests.reference.batch.gpu import Gpu
from tests.reference.batch.schedulers.gathering import NEVER_BUSY, Candidate, Gathering
from tests.reference.batch.target_size import Target


@dataclass
class Plan:
    """The candidate of a model: when it should start, and from when on it is no use."""

    size: int
    at: float
    expires: float


class Symphony:
    """Models look for a GPU when their batch is due; those that find none wait in a pool for one."""

    def __init__(
        self,
        fleet: Fleet,
        condition: str = "frontrun",
        timeout_share: float = 0.5,
        drop: str = "window",
        gpu: str = "longest_idle",
        margin_s: float = 1e-4,
    ) -> None:
        assert drop in ("window", "timeout") and gpu in ("longest_idle", "lowest_number")
        self.fleet = fleet
        self.condition = condition
        self.timeout_share = timeout_share
        self.drop = drop
        self.gpu_choice = gpu
        self.margin_s = margin_s
        models = range(len(fleet.models))
        self.gathering = Gathering(fleet)
        self.targets = [Target(fleet, m) for m in models]
        self.plans: dict[int, Plan] = {}
        self.pool: set[int] = set()
        self.send_timers: set[int] = set()  # models whose timer is set to when their batch is sent
        self.last_start_s = [-math.inf for _ in models]

    @property
    def own_timer(self) -> int:
        """The number of the scheduler's timer."""
        return len(self.fleet.models)

    def schedule(self, event: str, subject: int) -> None:
        """Any event; then the pool is served."""
        if event == "ARRIVAL":
            self.targets[subject].meter.arrive(self.fleet.now)
            self.candidate(subject)
        elif event == "TIMER" and subject != self.own_timer:
            if subject in self.send_timers:
                self.match(subject)
            else:
                self.candidate(subject)
        self.serve_pool()

    def gather(self, model: int, free_at: float) -> Candidate | None:
        """With the target size that the drop policy has."""
        target = self.targets[model]
        target.renew()
        return self.gathering.gather(model, free_at, 1 if self.drop == "timeout" else target.size)

    def candidate(self, model: int) -> None:
        """Gather a batch, and settle when it should be sent."""
        self.pool.discard(model)
        self.send_timers.discard(model)
        batch = self.gather(model, NEVER_BUSY)
        if batch is None:
            self.fleet.set_timer(model, math.inf)
            return
        fleet, size, deadline = self.fleet, batch.size, batch.deadline_s
        latency = fleet.latency(model, size)
        earliest = fleet.now + fleet.lead(size)
        latest = deadline - self.margin_s - latency
        at = max(earliest, min(self.wish(model, size, deadline, latest), latest))
        self.plans[model] = Plan(size, at, min(deadline - latency, 1e300))
        send = at - fleet.lead(size)
        if send > fleet.now:
            fleet.set_timer(model, send)
            self.send_timers.add(model)
        else:
            self.match(model)

    def wish(self, model: int, size: int, deadline: float, latest: float) -> float:
        """When the condition would have the batch start."""
        fleet, target = self.fleet, self.targets[model]
        front = -math.inf
        if size < fleet.largest(model):
            front = deadline - self.margin_s - fleet.latency(model, size + 1) - fleet.delays.data_s
        if self.condition == "frontrun":
            return front
        if self.condition == "eager":
            return -math.inf
        if self.condition == "target_batch_size":
            return -math.inf if size >= target.size else front
        if self.condition == "target_queueing_delay":
            return self.last_start_s[model] + target.size / target.rate if target.rate else -math.inf
        if self.condition == "latest":
            return latest
        assert self.condition == "timeout"
        first = fleet.queues[model][0]
        return first.arrival_s + self.timeout_share * fleet.models[model].slo_s

    def match(self, model: int) -> None:
        """A GPU for a batch that is due, or the pool."""
        self.send_timers.discard(model)
        fleet, plan = self.fleet, self.plans[model]
        with_room = [gpu for gpu in fleet.gpus if gpu.has_room]
        in_time = [gpu for gpu in with_room if gpu.free_at <= plan.at]
        if in_time and self.gpu_choice == "lowest_number":
            self.grant(model, in_time[0])
        elif in_time:
            self.grant(model, min(in_time, key=lambda gpu: (gpu.free_at, gpu.number)))
        else:
            self.pool.add(model)
            fleet.set_timer(model, plan.expires - fleet.lead(plan.size) + 1e-6)

    def grant(self, model: int, gpu: Gpu) -> None:
        """Send to this GPU what can be gathered for it."""
        self.pool.discard(model)
        batch = self.gather(model, gpu.free_at)
        if batch is None:
            self.fleet.set_timer(model, self.fleet.now + 1e-3)
            return
        self.last_start_s[model] = self.gathering.dispatch(model, gpu, batch.size).start_s
        self.candidate(model)

    def serve_pool(self) -> None:
        """GPUs for those that wait for one, most urgent first."""
        fleet = self.fleet
        while self.pool:
            model = min(self.pool, key=lambda m: (self.plans[m].expires, m))
            plan = self.plans[model]
            with_room = [gpu for gpu in fleet.gpus if gpu.has_room]
            if not with_room:
                fleet.set_timer(self.own_timer, math.inf)
                return
            gpu = min(with_room, key=lambda gpu: (gpu.free_at, gpu.number))
            if gpu.free_at - fleet.lead(plan.size) > fleet.now:
                fleet.set_timer(self.own_timer, gpu.free_at - fleet.lead(plan.size))
                return
            if gpu.free_at > plan.expires:
                self.pool.discard(model)
            else:
                self.grant(model, gpu)
        fleet.set_timer(self.own_timer, math.inf)
