"""Clipper (Crankshaw et al., NSDI 2017): batch sizes that grow by addition and fall by a factor."""

import math

from tests.reference.batch.fleet import Fleet
from tests.reference.batch.request import Batch


class Clipper:
    """Every model has its GPUs; every pair of the two a cap on its batches."""

    def __init__(self, fleet: Fleet, increase: float = 1.0, backoff: float = 0.9) -> None:
        self.fleet = fleet
        self.increase = increase
        self.backoff = backoff
        num_models, num_gpus = len(fleet.models), len(fleet.gpus)
        if num_gpus >= num_models:
            pairs = [(g % num_models, g) for g in range(num_gpus)]
        else:
            pairs = [(m, m % num_gpus) for m in range(num_models)]
        self.caps = dict.fromkeys(sorted(pairs), 1.0)
        self.running: dict[int, Batch] = {}  # by GPU

    def schedule(self, event: str, subject: int) -> None:
        """Any event."""
        fleet = self.fleet
        if event == "FREED" and subject in self.running and not fleet.gpus[subject].held:
            self.learn(self.running.pop(subject))
        for gpu in fleet.idle_gpus():
            waiting = []
            for model in (m for m, g in self.caps if g == gpu.number):
                queue = fleet.queues[model]
                late = sum(request.deadline_s < fleet.now for request in queue)
                if late:
                    fleet.drop(model, late)
                if queue:
                    waiting.append((queue[0].arrival_s, model))
            if waiting:
                _, model = min(waiting)
                cap = math.floor(self.caps[model, gpu.number])
                size = min(len(fleet.queues[model]), cap, fleet.largest(model))
                self.running[gpu.number] = fleet.dispatch(model, gpu, size)

    def learn(self, batch: Batch) -> None:
        """From how long a batch took."""
        fleet, pair = self.fleet, (batch.model, batch.gpu)
        limit = fleet.models[batch.model].slo_s - fleet.delays.response_s - fleet.lead(batch.size)
        if batch.end_s - batch.start_s > limit:
            self.caps[pair] = max(1.0, self.backoff * self.caps[pair])
        elif batch.size == math.floor(self.caps[pair]):
            self.caps[pair] = min(float(fleet.largest(batch.model)), self.caps[pair] + self.increase)
