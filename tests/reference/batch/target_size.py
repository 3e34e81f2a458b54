"""Staggered batches: how large a batch a rate calls for."""

import math

from tests.reference.batch.fleet import Fleet


def target_size(fleet: Fleet, model: int, rate: float | None) -> int:
    """b* at `rate` requests per second; None: not known yet."""
    sizes = range(1, fleet.largest(model) + 1)
    slo_s = fleet.models[model].slo_s
    if rate is None:
        return max((b for b in sizes if fleet.latency(model, b) <= slo_s / 2), default=1)
    if rate == 0:
        return 1
    control_s, data_s, response_s = fleet.delays.control_s, fleet.delays.data_s, fleet.delays.response_s
    budget = slo_s - control_s - response_s

    def gpus(b: int) -> float:
        return rate * fleet.latency(model, b) / b

    def staggered(b: int) -> bool:
        return fleet.latency(model, b) * (1 + 1 / max(gpus(b), 1)) <= budget - data_s * b

    def alone(b: int) -> bool:
        return fleet.latency(model, b) + b / rate + data_s * b <= budget

    best = max((b for b in sizes if staggered(b)), default=0)
    if best == 0 or gpus(best) <= 1:
        best = max((b for b in sizes if alone(b)), default=1)
    return best


class RateMeter:
    """Arrivals in buckets of 50 ms; the rate is that of the last 100 complete ones."""

    BUCKET_S = 0.05
    WINDOW = 100

    def __init__(self) -> None:
        self.buckets: list[int] = []  # of each arrival

    def arrive(self, now: float) -> None:
        """One arrival."""
        self.buckets.append(self.bucket(now))

    def bucket(self, now: float) -> int:
        """That `now` lies in."""
        return math.floor(now / self.BUCKET_S)

    def rate(self, now: float) -> float | None:
        """Requests per second; None before any bucket is complete."""
        last = self.bucket(now)
        first = max(0, last - self.WINDOW)
        if last == 0:
            return None
        return sum(first <= bucket < last for bucket in self.buckets) / ((last - first) * self.BUCKET_S)


class Target:
    """The rate and b* of one model, computed once a bucket."""

    def __init__(self, fleet: Fleet, model: int) -> None:
        self.fleet = fleet
        self.model = model
        self.meter = RateMeter()
        self.computed_in = -1
        self.rate: float | None = None
        self.size = 1

    def renew(self) -> None:
        """Bring `rate` and `size` up to date."""
        now = self.fleet.now
        if self.meter.bucket(now) != self.computed_in:
            self.computed_in = self.meter.bucket(now)
            self.rate = self.meter.rate(now)
            self.size = target_size(self.fleet, self.model, self.rate)
