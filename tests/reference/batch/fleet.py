"""What a scheduler sees and what it may do: queues, GPUs, timers, and the four actions."""

import math
from collections.abc import Sequence

from servegym.costmodels.errors import InputError
from servegym.envs.sim.batch.cluster import BatchCluster
from tests.reference.batch.gpu import Gpu
from tests.reference.batch.memory import Memory
from tests.reference.batch.request import DROPPED, GOOD, LATE, Batch, Request

ROUNDING_S = 1e-9


class Fleet:
    """The state of the simulation at `now`."""

    def __init__(self, cluster: BatchCluster, num_active: int) -> None:
        self.models = cluster.models
        self.delays = cluster.delays
        self.now = 0.0
        self.gpus = [Gpu(number) for number in range(cluster.num_gpus)]
        self.queues: list[list[Request]] = [[] for _ in self.models]
        self.timers = [math.inf] * (len(self.models) + 1)
        self.ended: list[Request] = []
        self.batches: list[Batch] = []  # that have ended
        self.num_preempted = 0
        self.last_progress_s = 0.0  # the last arrival, dispatch, drop or end of a batch
        limit = cluster.gpu_memory_bytes
        self.memory = Memory(self.models, limit, self.delays.control_s) if math.isfinite(limit) else None
        for gpu in self.gpus:
            if self.memory:
                self.memory.fill(gpu)
            if gpu.number < num_active:
                gpu.use(0.0)
            else:
                gpu.state = "inactive"

    # -- what the formulas are made of

    def latency(self, model: int, size: int) -> float:
        """l(b)."""
        return self.models[model].latency_s[size - 1]

    def largest(self, model: int) -> int:
        """B."""
        return len(self.models[model].latency_s)

    def lead(self, size: int) -> float:
        """lead(b)."""
        return self.delays.control_s + self.delays.data_s * size

    def deadline(self, model: int, arrival_s: float) -> float:
        """When a batch must end for a request that arrives then."""
        return arrival_s + self.models[model].slo_s - self.delays.response_s

    def idle_gpus(self) -> Sequence[Gpu]:
        """By number."""
        return [gpu for gpu in self.gpus if gpu.idle]

    # -- actions

    def dispatch(self, model: int, gpu: Gpu, size: int) -> Batch:
        """The first `size` requests of the queue go to `gpu`."""
        if not 1 <= size <= min(len(self.queues[model]), self.largest(model)):
            raise InputError(f"dispatch: a batch of {size} of model {model}")
        if not gpu.has_room:
            raise InputError(f"dispatch: GPU {gpu.number} has no room")
        start = max(self.now + self.lead(size), gpu.free_at)
        if self.memory:
            start = max(start, self.memory.load(gpu, model, self.now))
        end = start + self.latency(model, size)
        batch = Batch(model, gpu.number, self.queues[model][:size], self.now, start, end)
        del self.queues[model][:size]
        for request in batch.requests:
            request.batch = batch
        gpu.held.append(batch)
        self.last_progress_s = self.now
        gpu.last_end_s = end
        return batch

    def drop(self, model: int, count: int) -> None:
        """The first `count` requests of the queue leave it."""
        if not 1 <= count <= len(self.queues[model]):
            raise InputError(f"drop: {count} requests of model {model}")
        for request in self.queues[model][:count]:
            request.outcome = DROPPED
            self.ended.append(request)
        del self.queues[model][:count]
        self.last_progress_s = self.now

    def set_timer(self, number: int, at: float) -> None:
        """A time that has passed counts as now; inf clears it."""
        self.timers[number] = max(at, self.now)

    def preempt(self, gpu: Gpu) -> None:
        """The one batch that `gpu` holds goes back to its queue."""
        if len(gpu.held) != 1:
            raise InputError(f"preempt: GPU {gpu.number} holds {len(gpu.held)} batches")
        batch = gpu.held.pop()
        for request in batch.requests:
            request.batch = None
        self.queues[batch.model] = sorted(self.queues[batch.model] + batch.requests, key=lambda r: r.index)
        gpu.last_end_s = self.now
        gpu.release(self.now)
        self.num_preempted += 1

    # -- what happens by itself

    def end_batch(self, gpu: Gpu) -> None:
        """The first batch of `gpu` has ended."""
        batch = gpu.held.pop(0)
        for request in batch.requests:
            request.outcome = GOOD if batch.end_s <= request.deadline_s + ROUNDING_S else LATE
            self.ended.append(request)
        self.batches.append(batch)
        self.last_progress_s = self.now
        gpu.release(self.now)
