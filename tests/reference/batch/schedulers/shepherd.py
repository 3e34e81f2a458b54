"""Shepherd (Zhang et al., NSDI 2023), FLEX: the largest batch wins, and displaces much smaller ones."""

from collections.abc import Sequence

from tests.reference.batch.fleet import Fleet
from tests.reference.batch.gpu import Gpu
from tests.reference.batch.request import Request
from tests.reference.batch.schedulers.deadlines import expire, expired, feasible


class Shepherd:
    """Decides when a GPU is freed and when a request comes."""

    def __init__(self, fleet: Fleet, preempt_ratio: float = 3.03) -> None:
        self.fleet = fleet
        self.preempt_ratio = preempt_ratio

    def schedule(self, event: str, subject: int) -> None:
        """FREED and ARRIVAL."""
        fleet = self.fleet
        if event == "FREED" and fleet.gpus[subject].idle:
            sizes = [self.best(model) for model in range(len(fleet.models))]
            self.send(sizes.index(max(sizes)), fleet.gpus[subject])
        elif event == "ARRIVAL":
            idle = fleet.idle_gpus()
            if idle:
                self.send(subject, idle[0])
            else:
                self.preempt_for(subject)

    def preempt_for(self, model: int) -> None:
        """The first GPU whose batch is small enough gives way."""
        fleet = self.fleet
        alone = self.best(model)
        for gpu in fleet.gpus:
            if gpu.state != "active" or len(gpu.held) != 1:
                continue
            batch, size = gpu.held[0], alone
            if batch.model == model:
                size = self.size_of(
                    model, sorted(batch.requests + fleet.queues[model], key=lambda r: r.index)
                )
            if size >= self.preempt_ratio * batch.size:
                fleet.preempt(gpu)
                self.send(model, gpu)
                return

    def best(self, model: int) -> int:
        """The largest feasible batch; drops who cannot be answered any more."""
        expire(self.fleet, model)
        return self.size_of(model, self.fleet.queues[model])

    def size_of(self, model: int, queue: Sequence[Request]) -> int:
        """The largest feasible batch of a queue, without those that cannot be answered."""
        fresh = queue[expired(self.fleet, model, queue) :]
        size = 0
        while size < min(len(fresh), self.fleet.largest(model)):
            if not feasible(self.fleet, model, size + 1, fresh[0]):
                break
            size += 1
        return size

    def send(self, model: int, gpu: Gpu) -> None:
        """The best batch of `model`, if there is one."""
        size = self.best(model)
        if size > 0:
            self.fleet.dispatch(model, gpu, size)
