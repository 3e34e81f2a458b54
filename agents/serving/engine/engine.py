"""`Engine`: what a plugin inside an engine calls. It can carry out what it gets, whatever a policy does."""

import logging
import time
from collections import Counter
from typing import NamedTuple

from servegym.agents.serving.contracts import (
    EnginePlan,
    EnginePolicy,
    EngineState,
    as_it_is,
    fault_of_plan,
)
from servegym.agents.serving.deadline import limit

_LOG = logging.getLogger("servegym.engine")

LATE, RAISED, MALFORMED = "late", "raised", "malformed"
REASONS = (LATE, RAISED, MALFORMED)
"""Why an engine goes by its own rules: the policy took too long, raised, or planned what cannot be done."""


class Planned(NamedTuple):
    """A plan, whose it is and why not the policy's: `fallback` is one of REASONS, or empty.

    policy: its name, "engine" where the engine's own rules decide. decision_s: seconds on the wall.
    """

    plan: EnginePlan
    policy: str
    fallback: str
    decision_s: float


class Engine:
    """Plans iterations by `policy`; the engine's own rules where that fails.

    deadline_s: how long it may think; None: as long as it likes. shadow: it is asked but does not act.
    `fallbacks` counts reasons, `plans` how often it was asked.
    """

    def __init__(
        self, policy: EnginePolicy, *, deadline_s: float | None = 0.005, shadow: bool = False
    ) -> None:
        self.policy, self.shadow = policy, shadow
        self.fallbacks: Counter[str] = Counter()
        self.plans = 0
        self._limit = limit(deadline_s, policy)

    def plan(self, state: EngineState) -> Planned:
        """What the next iteration is to be made of; it never raises.

        `state` must not change while a late policy reads it.
        """
        began_s = time.perf_counter()
        self.plans += 1
        plan, reason = self._asked(state)
        acts = plan is not None and not self.shadow
        if plan is None or self.shadow:
            plan = as_it_is(state)
        name = self.policy.name if acts else "engine"
        return Planned(plan, name, reason, time.perf_counter() - began_s)

    def _asked(self, state: EngineState) -> tuple[EnginePlan | None, str]:
        policy = self.policy
        try:
            plan = policy.plan(state) if self._limit is None else self._limit.run(lambda: policy.plan(state))
            fault = fault_of_plan(plan, state)
        except TimeoutError:
            return None, self._counted(LATE, "its deadline has passed")
        except Exception as error:  # a policy may be anybody's code
            return None, self._counted(RAISED, f"{type(error).__name__}: {error}")
        return (None, self._counted(MALFORMED, fault)) if fault else (plan, "")

    def _counted(self, reason: str, what: str) -> str:
        self.fallbacks[reason] += 1
        if self.fallbacks[reason] == 1:
            _LOG.warning(
                "policy %s: %s (%s): the engine's own rules decide; said once", self.policy.name, reason, what
            )
        return reason
