"""Triton's dynamic batcher: batches of preferred sizes, if they come together in time."""

from collections.abc import Sequence

from tests.reference.batch.fleet import Fleet
from tests.reference.batch.schedulers.turns import Turns


class Triton(Turns):
    """`max_batch` 0: what fits into half the objective."""

    def __init__(
        self,
        fleet: Fleet,
        preferred: Sequence[int] = (),
        max_queue_delay_s: float = 0.0,
        max_batch: int = 0,
    ) -> None:
        super().__init__(fleet, max_batch, max_queue_delay_s)
        self.preferred = preferred

    def size(self, model: int) -> int:
        """The largest preferred size that the queue fills, else all that wait."""
        waiting, limit = len(self.fleet.queues[model]), self.limit(model)
        preferred = [s for s in self.preferred if s <= min(limit, self.fleet.largest(model))]
        full = max(preferred, default=limit)
        if waiting < full and self.waited_at(model) > self.fleet.now:
            return 0
        return max((s for s in preferred if s <= waiting), default=min(waiting, limit))
