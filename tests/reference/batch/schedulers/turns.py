"""What TF-Serving and Triton share: idle GPUs take the models that are ready, in turns."""

import math
from abc import ABC, abstractmethod

from tests.reference.batch.fleet import Fleet


class Turns(ABC):
    """Never drops anybody."""

    def __init__(self, fleet: Fleet, max_batch: int, patience_s: float) -> None:
        self.fleet = fleet
        self.max_batch = max_batch
        self.patience_s = patience_s
        self.last = len(fleet.models) - 1

    @abstractmethod
    def size(self, model: int) -> int:
        """How many of a model with requests are ready to be sent; 0: it is not."""

    def limit(self, model: int) -> int:
        """`max_batch`, or the largest batch that takes no more than half the objective."""
        if self.max_batch > 0:
            return self.max_batch
        sizes = range(1, self.fleet.largest(model) + 1)
        slo_s = self.fleet.models[model].slo_s
        return max((b for b in sizes if 2 * self.fleet.latency(model, b) <= slo_s), default=1)

    def waited_at(self, model: int) -> float:
        """When its first request has waited long enough."""
        return self.fleet.queues[model][0].arrival_s + self.patience_s

    def schedule(self, event: str, subject: int) -> None:
        """Any event."""
        fleet, num_models = self.fleet, len(self.fleet.models)
        for gpu in fleet.idle_gpus():
            for step in range(1, num_models + 1):
                model = (self.last + step) % num_models
                size = self.size(model) if fleet.queues[model] else 0
                if size > 0:
                    fleet.dispatch(model, gpu, min(size, fleet.largest(model)))
                    self.last = model
                    break
            else:
                break
        for model, queue in enumerate(fleet.queues):
            to_come = queue and self.waited_at(model) > fleet.now
            fleet.set_timer(model, self.waited_at(model) if to_come else math.inf)
