"""How many GPUs are active, decided every few seconds from what has happened since."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.reference.batch.fleet import Fleet
from tests.reference.batch.request import GOOD
from tests.reference.batch.target_size import target_size


@dataclass
class Signal:
    """What an autoscaler sees, over the last `every_s`."""

    now_s: float
    active: int  # and starting
    every_s: float
    arrivals: int
    ended: int
    bad: int
    busy_s: float  # of batches that have ended
    required_s: float  # GPU seconds that the arrivals need


@dataclass
class Autoscaling:
    """Asked at every multiple of `every_s`; its GPUs take `startup_s` to start."""

    scale: Callable[[Signal], int]
    every_s: float
    startup_s: float
    initial: int


class Autoscaler:
    """Carries out what `Autoscaling.scale` says, and counts what it is told."""

    def __init__(self, rules: Autoscaling, fleet: Fleet) -> None:
        self.rules = rules
        self.fleet = fleet
        self.tick = 1
        self.arrivals = [0] * len(fleet.models)
        self.seen_ended = 0
        self.seen_batches = 0

    @property
    def next_s(self) -> float:
        """When it is asked next."""
        return self.tick * self.rules.every_s

    def signal(self) -> Signal:
        """Of the window that ends now."""
        fleet, every_s = self.fleet, self.rules.every_s
        ended = fleet.ended[self.seen_ended :]
        required_s = 0.0
        for model, arrivals in enumerate(self.arrivals):
            if arrivals:
                size = target_size(fleet, model, arrivals / every_s)
                required_s += arrivals * (fleet.latency(model, size) / size)
        return Signal(
            now_s=fleet.now,
            active=sum(gpu.state != "inactive" for gpu in fleet.gpus),
            every_s=every_s,
            arrivals=sum(self.arrivals),
            ended=len(ended),
            bad=sum(request.outcome != GOOD for request in ended),
            busy_s=sum(batch.end_s - batch.start_s for batch in fleet.batches[self.seen_batches :]),
            required_s=required_s,
        )

    def ask(self) -> None:
        """One decision."""
        wanted = self.rules.scale(self.signal())
        assert 1 <= wanted <= len(self.fleet.gpus)
        self.tick += 1
        self.arrivals = [0] * len(self.fleet.models)
        self.seen_ended, self.seen_batches = len(self.fleet.ended), len(self.fleet.batches)
        now = self.fleet.now
        for gpu in self.fleet.gpus:
            if gpu.number < wanted and gpu.state == "inactive":
                gpu.state, gpu.active_at = "starting", now + self.rules.startup_s
                gpu.use(now)
            elif gpu.number >= wanted and gpu.state != "inactive":
                gpu.state = "inactive"
                gpu.release(now)
