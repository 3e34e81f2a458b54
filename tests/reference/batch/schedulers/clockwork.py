"""Clockwork (Gujarati et al., OSDI 2020): the largest feasible batch of the model that is most urgent."""

from collections.abc import Sequence

from tests.reference.batch.fleet import Fleet
from tests.reference.batch.schedulers.deadlines import expire, feasible


class Clockwork:
    """Looks at the queues whenever a GPU is idle."""

    def __init__(self, fleet: Fleet, sizes: Sequence[int] = (1, 2, 4, 8, 16)) -> None:
        self.fleet = fleet
        self.sizes = sizes

    def schedule(self, event: str, subject: int) -> None:
        """Any event."""
        fleet = self.fleet
        while fleet.idle_gpus():
            choices = []
            for model, queue in enumerate(fleet.queues):
                expire(fleet, model)
                most = min(len(queue), fleet.largest(model))
                sizes = [s for s in self.sizes if s <= most and feasible(fleet, model, s, queue[0])]
                if sizes:
                    start_by = queue[0].deadline_s - fleet.latency(model, max(sizes))
                    choices.append((start_by, model, max(sizes)))
            if not choices:
                return
            _, model, size = min(choices)
            fleet.dispatch(model, fleet.idle_gpus()[0], size)
