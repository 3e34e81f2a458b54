"""LoongServe's global manager (Wu et al., SOSP 2024): steps, while nothing runs, and macro iterations."""

from typing import Any

from tests.reference.elastic.fleet import Fleet
from tests.reference.elastic.managers.dispatch import dispatch
from tests.reference.elastic.managers.macro_iteration import MacroIteration
from tests.reference.elastic.managers.parameters import Parameters
from tests.reference.elastic.managers.scaling import decode, scaling_plan
from tests.reference.elastic.memory import in_groups, latest


class LoongServe:
    """`parameters` are those of `Parameters`."""

    def __init__(self, **parameters: Any) -> None:
        self.parameters = Parameters(**parameters)
        self.wait = 0
        self.skips = 0
        self.macro: MacroIteration | None = None

    def act(self, fleet: Fleet) -> None:
        """At an instant at which something happened."""
        if self.macro and self.macro.prefills:
            self.macro.go_on()
        elif not fleet.anything_runs:
            if self.macro:
                self.macro.finish()
                self.macro = None
            self.step(fleet)

    def step(self, fleet: Fleet) -> None:
        """A macro iteration where requests are admitted, else all groups decode once."""
        while True:
            if not fleet.groups or self.wait >= self.parameters.max_wait:
                decision = dispatch(fleet, self.parameters, self.skips)
                if decision.requests:
                    self.wait = 0
                    self.skips = self.skips + 1 if decision.ahead else 0
                    self.macro = MacroIteration(fleet, self.parameters, decision.requests)
                    return
            if not fleet.groups:
                return
            empty = [i for i in fleet.instances if fleet.used[i] == 0]
            plan = scaling_plan(fleet, self.parameters, fleet.groups, empty)
            if plan:
                for planned in plan:
                    decode(fleet, self.parameters, planned.group, planned.added, 0.0)
                self.wait += 1
                return
            if plan is None:
                fleet.pause(latest(in_groups(fleet)))
                self.wait = 0
