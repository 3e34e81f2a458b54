"""An exported policy as an engine policy."""

import numpy as np

from servegym.agents.serving.artifact.load import ExportedPolicy
from servegym.agents.serving.contracts import EnginePlan, EngineState
from servegym.agents.serving.engine.planned_engine import NUM_CHOICES, NUM_ROWS, SHARES, PlannedEngine
from servegym.costmodels.errors import InputError

MAX_DECISIONS = 2 * NUM_ROWS
"""For one iteration; a policy that has not started it by then starts it with all prefills."""


class LearnedScheduler:
    """Plans of an artifact of level `scheduler` or `two_level`: choice after choice, as it was trained.

    InputError for another level.
    """

    bounded = True

    def __init__(self, policy: ExportedPolicy, name: str = "learned") -> None:
        self.name = name
        self._policy = policy
        level = policy.description["level"]
        if level not in ("scheduler", "two_level"):
            raise InputError(f"policy {name}: decides as {level}; must be scheduler or two_level")
        self._observation = {
            name: np.zeros(of.shape(1, 1)[1:], np.float32) for name, of in policy.level.inputs.items()
        }
        if level == "two_level":
            self._observation["level"] = np.ones((), np.float32)

    def plan(self, state: EngineState) -> EnginePlan:
        """The plan after at most MAX_DECISIONS choices."""
        engine = PlannedEngine(state)
        self._observation["engine"], self._observation["requests"] = engine.engine, engine.requests
        for _ in range(MAX_DECISIONS):
            engine.look()
            scores = self._policy.score_one(self._observation)[-NUM_CHOICES:]
            share = engine.decide(int(scores.argmax()))
            if share is not None:
                return engine.plan(share)
        return engine.plan(SHARES[-1])
