"""Nexus (Shen et al., SOSP 2019): GPUs take turns over the models that a plan gives them."""

import math

from tests.reference.batch.fleet import Fleet
from tests.reference.batch.schedulers.gathering import NEVER_BUSY, Gathering
from tests.reference.batch.schedulers.nexus_plan import Plan, make_plan


class Nexus:
    """Measures rates at every beacon, and plans anew every epoch or where they have changed."""

    def __init__(
        self,
        fleet: Fleet,
        epoch_s: float = 30.0,
        least_epoch_s: float = 10.0,
        beacon_s: float = 1.0,
        window_s: float = 10.0,
    ) -> None:
        self.fleet = fleet
        self.epoch_s = epoch_s
        self.least_epoch_s = least_epoch_s
        self.beacon_s = beacon_s
        self.window = round(window_s / beacon_s)  # in beacons
        self.gathering = Gathering(fleet)
        self.plan: Plan | None = None
        self.planned_at = 0.0
        self.next_session = [0] * len(fleet.gpus)
        self.next_beacon: int | None = None
        self.arrivals: list[tuple[int, int]] = []  # model, and the beacon that comes after it

    @property
    def own_timer(self) -> int:
        """The beacon's."""
        return len(self.fleet.models)

    def schedule(self, event: str, subject: int) -> None:
        """Any event."""
        if self.plan is None:
            self.plan = make_plan(self.fleet, [1.0] * len(self.fleet.models))
        if event == "ARRIVAL":
            if self.next_beacon is None:
                self.set_beacon(math.floor(self.fleet.now / self.beacon_s) + 1)
            assert self.next_beacon is not None
            self.arrivals.append((subject, self.next_beacon))
        elif event == "TIMER" and subject == self.own_timer:
            self.beacon()
        self.take_turns()

    def set_beacon(self, number: int) -> None:
        """The next one."""
        self.next_beacon = number
        self.fleet.set_timer(self.own_timer, number * self.beacon_s)

    def beacon(self) -> None:
        """Measure the rates, and make a new plan if it is time."""
        number = self.next_beacon
        assert number is not None and self.plan is not None
        self.next_beacon = None
        recent = [model for model, beacon in self.arrivals if beacon > number - self.window]
        if not recent:
            return
        seconds = min(number, self.window) * self.beacon_s
        rates = [recent.count(model) / seconds for model in range(len(self.fleet.models))]
        age = self.fleet.now - self.planned_at
        pairs = zip(rates, self.plan.rates, strict=True)
        changed = any(rate < 0.8 * planned or rate > 1.1 * planned for rate, planned in pairs)
        if age >= self.epoch_s or (age >= self.least_epoch_s and changed):
            self.plan = make_plan(self.fleet, rates)
            self.planned_at = self.fleet.now
            self.next_session = [0] * len(self.fleet.gpus)
        self.set_beacon(number + 1)

    def take_turns(self) -> None:
        """Each idle GPU serves the next of its sessions that has a batch."""
        assert self.plan is not None
        for gpu in self.fleet.idle_gpus():
            sessions = self.plan.nodes[gpu.number % len(self.plan.nodes)].sessions
            for step in range(len(sessions)):
                turn = (self.next_session[gpu.number] + step) % len(sessions)
                session = sessions[turn]
                batch = self.gathering.gather(session.model, NEVER_BUSY, session.target)
                if batch:
                    self.gathering.dispatch(session.model, gpu, batch.size)
                    self.next_session[gpu.number] = (turn + 1) % len(sessions)
                    break
