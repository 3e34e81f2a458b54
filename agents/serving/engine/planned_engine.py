"""An engine as a scheduling agent sees it: what is there, and what decisions will make of it.

The rules are those of docs/simulator.md, "Scheduler: agent", from what a serving system can tell of its
engine. Decisions change this picture only; what was decided becomes an `EnginePlan`.
"""

import math

import numpy as np

from servegym.agents.serving.artifact.schema import ENGINE_FEATURES, ROW_FEATURES
from servegym.agents.serving.contracts import BLOCKS as HELD_BLOCKS
from servegym.agents.serving.contracts import (
    COMPUTED_TOKENS,
    GENERATED_TOKENS,
    PREDICTED_OUTPUT_TOKENS,
    PRIORITY,
    PROMPT_TOKENS,
    SINCE_ARRIVAL_S,
    EnginePlan,
    EngineState,
)

SHARES = (0.0, 0.25, 0.5, 1.0)
"""Of the budget that decodes leave, what prefills may get of it in an iteration."""

VISIBLE = 32
"""Rows for those who wait, and as many for those who run."""

OLDEST = 16
"""Rows for the head of a queue of more than VISIBLE; the rest of their rows are for the shortest."""

NUM_ROWS = 2 * VISIBLE
NUM_CHOICES = NUM_ROWS + len(SHARES)

NOBODY = -1


class PlannedEngine:
    """One engine at the start of an iteration. Requests are numbered: those who wait, then those who run.

    `engine` float32 (13,), `requests` float32 (64, 12) and `row_ids` (64,), the request of each row or
    NOBODY, are up to date after `look`.
    """

    def __init__(self, state: EngineState) -> None:
        self.state = state
        table = np.concatenate([state.waiting, state.running])
        num_waiting = len(state.waiting)
        self.prompt = table[:, PROMPT_TOKENS]
        self.known = self.prompt + table[:, GENERATED_TOKENS]
        self.generated = table[:, GENERATED_TOKENS]
        self.computed = table[:, COMPUTED_TOKENS].copy()
        self.computed[:num_waiting] = 0.0
        self.predicted = table[:, PREDICTED_OUTPUT_TOKENS]
        self.age_s = table[:, SINCE_ARRIVAL_S]
        self.priority = table[:, PRIORITY]
        self.held = table[:, HELD_BLOCKS].copy()
        self.held[:num_waiting] = 0.0
        ids = np.arange(num_waiting, len(table))
        decodes = (self.generated[ids] > 0) & (self.computed[ids] >= self.known[ids] - 1)
        self.waiting = list(range(num_waiting))
        self.running = ids.tolist()
        self.decoding = set(ids[decodes].tolist())
        self.admitted: list[int] = []
        self.preempted: list[int] = []
        self.free = float(state.free_blocks)
        self.engine = np.zeros(len(ENGINE_FEATURES), np.float32)
        self.requests = np.zeros((NUM_ROWS, len(ROW_FEATURES)), np.float32)
        self.row_ids = np.full(NUM_ROWS, NOBODY)

    def unclaimed(self, share: float) -> tuple[int, int]:
        """Prefill tokens and KV blocks that those who run would leave over; blocks < 0: they lack some."""
        size = self.state.limits.block_size
        budget = self._prefill_budget(share)
        free = self.free - self._blocks_of_decodes()
        for request in self.running:
            if budget == 0:
                break
            if request in self.decoding:
                continue
            chunk = min(self.known[request] - self.computed[request], budget)
            free -= max(0.0, _blocks(self.computed[request] + chunk, size) - self.held[request])
            budget -= int(chunk)
        return budget, int(free)

    def may_run(self, share: float) -> bool:
        """Whether an iteration can start with a share: it would not be empty."""
        if share > 0:
            return bool(self.running)
        return bool(self.decoding) and self.free >= self._blocks_of_decodes()

    def decide(self, choice: int) -> float | None:
        """Carries out one choice; returns the share of prefills where the iteration starts, else None."""
        if choice >= NUM_ROWS:
            return SHARES[choice - NUM_ROWS]
        request = int(self.row_ids[choice])
        if choice < VISIBLE:
            self.waiting.remove(request)
            self.running.append(request)
            self.admitted.append(request)
        else:
            self.running.remove(request)
            self.decoding.discard(request)
            self.free += self.held[request]
            self.computed[request] = self.held[request] = 0.0
            self.waiting.insert(0, request)
            self.preempted.append(request)
        return None

    def plan(self, share: float) -> EnginePlan:
        """What was decided: those admitted first, decodes before prefills."""
        limits, num_waiting = self.state.limits, len(self.state.waiting)
        runs = [request for request in self.running if request >= num_waiting]
        order = [request for request in runs if request in self.decoding]
        order += [request for request in runs if request not in self.decoding]
        gone = [request for request in self.preempted if request not in self.running]
        again = [request for request in self.preempted if request in self.running]
        budget = len(self.decoding) + self._prefill_budget(share)
        return EnginePlan(
            preempt=tuple(request - num_waiting for request in dict.fromkeys(self.preempted)),
            waiting=tuple(request for request in self.admitted if request < num_waiting),
            running=tuple(
                request - num_waiting
                for request in dict.fromkeys([*(each for each in order if each not in again), *again, *gone])
            ),
            max_running=min(max(1, len(self.running)), limits.max_num_seqs),
            token_budget=min(max(1, budget), limits.token_budget),
        )

    def look(self) -> None:
        """Brings `engine`, `requests` and `row_ids` up to date."""
        limits = self.state.limits
        tokens, blocks = self.unclaimed(1.0)
        everybody = self.waiting + self.running
        decoding = sorted(self.decoding)
        prefilling = [request for request in self.running if request not in self.decoding]
        predicted = self.predicted[everybody].sum() - self.generated[everybody].sum()
        self.engine[:] = (
            len(self.running),
            len(self.waiting),
            len(decoding),
            len(self.admitted),
            self.known[self.waiting].sum() + (self.known[prefilling] - self.computed[prefilling]).sum(),
            self.known[everybody].sum(),
            self.computed[decoding].sum(),
            limits.num_kv_blocks - self.free,
            limits.num_kv_blocks,
            tokens,
            max(0, blocks),
            limits.max_num_seqs - len(self.running),
            max(0.0, predicted),
        )
        self.requests[:] = 0.0
        self.row_ids[:] = NOBODY
        self._write_waiting(tokens, blocks)
        self._write_running()

    def _write_waiting(self, tokens: int, blocks: int) -> None:
        seen = self._waiting_seen()
        limits, count = self.state.limits, len(seen)
        known = self.known[seen]
        needs = _blocks(known if limits.reserve_full_prompt else np.minimum(known, tokens), limits.block_size)
        rows = self._write(0, seen, needs)
        rows[:, 0] = 1.0
        seat = len(self.running) < limits.max_num_seqs and tokens > 0
        rows[:, -1] = seat & (needs <= blocks)
        self.row_ids[:count] = seen

    def _write_running(self) -> None:
        seen = self.running[: -VISIBLE - 1 : -1]
        rows = self._write(VISIBLE, seen, _blocks(self.computed[seen], self.state.limits.block_size))
        decodes = np.array([request in self.decoding for request in seen], bool)
        rows[:, 1], rows[:, 2] = ~decodes, decodes
        may_go = np.arange(len(seen)) >= len(self.admitted)
        rows[:, -1] = may_go & (len(self.running) > 1)
        self.row_ids[VISIBLE : VISIBLE + len(seen)] = seen

    def _write(self, first: int, seen: list[int], blocks: np.ndarray) -> np.ndarray:
        rows = self.requests[first : first + len(seen)]
        rows[:, 3] = self.prompt[seen]
        rows[:, 4] = self.known[seen]
        rows[:, 5] = self.computed[seen]
        rows[:, 6] = self.predicted[seen]
        rows[:, 7] = self.generated[seen]
        rows[:, 8] = self.age_s[seen]
        rows[:, 9] = self.priority[seen]
        rows[:, 10] = blocks
        return rows

    def _waiting_seen(self) -> list[int]:
        if len(self.waiting) <= VISIBLE:
            return self.waiting
        others = np.array(self.waiting[OLDEST:])
        to_come = self.known[others] + np.maximum(0.0, self.predicted[others] - self.generated[others])
        shortest = others[np.argsort(to_come, kind="stable")[: VISIBLE - OLDEST]]
        return [*self.waiting[:OLDEST], *shortest.tolist()]

    def _prefill_budget(self, share: float) -> int:
        """Rounded up, so that a share above 0 is at least a token."""
        return math.ceil(share * max(0, self.state.limits.token_budget - len(self.decoding)))

    def _blocks_of_decodes(self) -> float:
        """That decodes lack for one token more each."""
        decoding = list(self.decoding)
        needs = _blocks(self.computed[decoding] + 1.0, self.state.limits.block_size)
        return float(np.maximum(0.0, needs - self.held[decoding]).sum())


def _blocks(tokens: np.ndarray, block_size: int) -> np.ndarray:
    blocks: np.ndarray = np.ceil(tokens / block_size)
    return blocks
