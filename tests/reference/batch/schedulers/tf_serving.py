"""TF-Serving's shared batch scheduler: a batch is ready when it is full or its first has waited."""

from tests.reference.batch.fleet import Fleet
from tests.reference.batch.schedulers.turns import Turns


class TfServing(Turns):
    """`max_batch` 0: what fits into half the objective."""

    def __init__(self, fleet: Fleet, max_batch: int = 0, timeout_s: float = 1e-3) -> None:
        super().__init__(fleet, max_batch, timeout_s)

    def size(self, model: int) -> int:
        """All that wait, up to the limit."""
        waiting, limit = len(self.fleet.queues[model]), self.limit(model)
        ready = waiting >= limit or self.waited_at(model) <= self.fleet.now
        return min(waiting, limit) if ready else 0
