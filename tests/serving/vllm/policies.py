"""Engine policies for tests."""

import random
import time

import numpy as np

from servegym.agents.serving.contracts import (
    COMPUTED_TOKENS,
    GENERATED_TOKENS,
    PREDICTED_OUTPUT_TOKENS,
    PROMPT_TOKENS,
    EnginePlan,
    EngineState,
    as_it_is,
)


class RandomPlans:
    """Any legal plan: orders, budgets, caps, chunks, preemptions, iterations without prefills."""

    name = "random"

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.preempted = self.decode_only = 0

    def plan(self, state: EngineState) -> EnginePlan:
        draw, limits = self.random, state.limits
        num_waiting, num_running = len(state.waiting), len(state.running)
        decodes = [row for row in range(num_running) if _decodes(state.running[row])]
        running = draw.sample(range(num_running), num_running)
        budget = draw.choice([1, 7, 32, limits.token_budget])
        if decodes and draw.random() < 0.2:
            running = decodes + [row for row in running if row not in decodes]
            budget = min(len(decodes), limits.token_budget)
            self.decode_only += 1
        preempt = [row for row in range(num_running) if draw.random() < 0.03]
        self.preempted += len(preempt)
        return EnginePlan(
            preempt=tuple(preempt),
            waiting=tuple(draw.sample(range(num_waiting), draw.randint(0, num_waiting))),
            running=tuple(running) if draw.random() < 0.9 else None,
            max_running=draw.randint(1, limits.max_num_seqs),
            token_budget=budget,
            prefill_chunk=draw.choice([0, 1, 16, 64]),
        )


class ShortestFirst:
    """Those with the fewest tokens to come are admitted and served first; who has most is given up first."""

    name = "shortest first"

    def plan(self, state: EngineState) -> EnginePlan:
        return as_it_is(state)._replace(
            waiting=tuple(np.argsort(self._to_come(state.waiting), kind="stable").tolist()),
            running=tuple(np.argsort(self._to_come(state.running), kind="stable").tolist()),
        )

    def _to_come(self, rows: np.ndarray) -> np.ndarray:
        return rows[:, PROMPT_TOKENS] - rows[:, COMPUTED_TOKENS] + rows[:, PREDICTED_OUTPUT_TOKENS]


class Failing:
    """Fails in every way that there is, in turn."""

    name = "failing"

    def __init__(self) -> None:
        self.calls = 0

    def plan(self, state: EngineState) -> EnginePlan:
        self.calls += 1
        plan = as_it_is(state)
        match self.calls % 7:
            case 0:
                raise RuntimeError("no plan")
            case 1:
                return plan._replace(token_budget=float("nan"))
            case 2:
                return plan._replace(waiting=(0, 0))
            case 3:
                return plan._replace(preempt=(10_000,))
            case 4:
                return None
            case 5:
                return plan._replace(running=tuple(range(len(state.running) + 1)))
            case _:
                return plan._replace(max_running=0)


class Slow:
    """Takes its time."""

    name = "slow"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def plan(self, state: EngineState) -> EnginePlan:
        time.sleep(self.seconds)
        return as_it_is(state)._replace(max_running=1)


def _decodes(row: np.ndarray) -> bool:
    known = row[PROMPT_TOKENS] + row[GENERATED_TOKENS]
    return bool(row[GENERATED_TOKENS] > 0 and row[COMPUTED_TOKENS] >= known - 1)
