"""Symphony's batches: which requests are too old, and how many go together."""

import math
from dataclasses import dataclass

from tests.reference.batch.fleet import Fleet
from tests.reference.batch.gpu import Gpu
from tests.reference.batch.request import Batch


@dataclass
class Candidate:
    """A batch that could be sent: its size, and the deadline that it must keep."""

    size: int
    deadline_s: float


class Gathering:
    """Keeps, of each model, how many at the head of its queue are too old for a batch of all behind."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.prefix = [0] * len(fleet.models)

    def gather(self, model: int, free_at: float, target: int) -> Candidate | None:
        """The batch for a GPU that is free then; drops who is too old for it."""
        fleet, largest, prefix = self.fleet, self.fleet.largest(model), self.prefix
        now, queue = fleet.now, fleet.queues[model]

        def end(size: int) -> float:
            return max(now + fleet.lead(size), free_at) + fleet.latency(model, size)

        while prefix[model] < len(queue):
            behind = min(len(queue) - prefix[model], largest)
            if end(behind) <= queue[prefix[model]].deadline_s:
                break
            prefix[model] += 1
        size = min(target, len(queue) - prefix[model], largest)
        if size == 0:
            if free_at <= now + fleet.lead(1) and queue:
                self.drop(model, len(queue))
            return None
        finish = end(size)
        while prefix[model] > 0 and queue[0].deadline_s < finish:
            self.drop(model, 1)
        deadline_s = queue[0].deadline_s
        while size < min(len(queue), largest) and end(size + 1) <= deadline_s:
            size += 1
        return Candidate(size, deadline_s)

    def drop(self, model: int, count: int) -> None:
        """From the head of the queue."""
        self.fleet.drop(model, count)
        self.prefix[model] = max(0, self.prefix[model] - count)

    def dispatch(self, model: int, gpu: Gpu, size: int) -> Batch:
        """From the head of the queue."""
        self.prefix[model] = max(0, self.prefix[model] - size)
        return self.fleet.dispatch(model, gpu, size)


NEVER_BUSY = -math.inf
