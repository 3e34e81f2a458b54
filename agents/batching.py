"""Rules over the observations of `servegym/Batching-v0`."""

import numpy as np

from servegym.envs.batching.observation import Observation
from servegym.envs.sim.llm.decision_view import (
    ENGINE_COLUMNS,
    GENERATED_TOKENS,
    IS_WAITING,
    KNOWN_TOKENS,
    LEGAL,
    PREDICTED_OUTPUT_TOKENS,
    SINCE_ARRIVAL_S,
)
from servegym.envs.sim.llm.decisions import NUM_ROWS, SHARES, VISIBLE

ENGINE = {name: column for column, (name, _) in enumerate(ENGINE_COLUMNS)}


class FirstComeFirstServed:
    """vLLM V1: the head of the queue while it fits, then all of the token budget for prefills."""

    name = "first_come_first_served"

    def reset(self, num_episodes: int, seed: int) -> None:
        """Has nothing to forget."""

    def act(self, observation: Observation) -> np.ndarray:
        """int64 (K,)."""
        fits = observation["requests"][:, 0, LEGAL] > 0
        return np.where(fits, 0, NUM_ROWS + len(SHARES) - 1)


class BoundedShortestFirst:
    """Shortest job first with a bound on who is put off, and prefills as long as the engine can use (ours).

    A job is its `predicted output still to come + prompt_weight * tokens to prefill`, and no job counts as
    more than `largest_job` tokens. It is put off by `patience` times the age of who waits longest, times its
    share of the largest job: who is due first is admitted first, and nobody else while that one does not fit.
    So the queue itself says how long anyone may be made to wait.

    While others decode, prefills get a quarter of the token budget, which costs decodes little. They get half
    where `long_queue` requests wait and more than `slack` of seats and of KV memory is free: then it is the
    prefills that keep others waiting, and a larger batch serves more. They get all of it, with as much free,
    once somebody waits for longer than `hurry_s`.
    """

    name = "bounded_shortest_first"

    def __init__(
        self,
        prompt_weight: float = 0.3,
        largest_job: float = 750.0,
        patience: float = 0.9,
        long_queue: int = 8,
        slack: float = 0.2,
        hurry_s: float = 0.8,
    ) -> None:
        self.prompt_weight, self.largest_job, self.patience = prompt_weight, largest_job, patience
        self.long_queue, self.slack, self.hurry_s = long_queue, slack, hurry_s

    def reset(self, num_episodes: int, seed: int) -> None:
        """Has nothing to forget."""

    def act(self, observation: Observation) -> np.ndarray:
        """int64 (K,)."""
        engine, rows = observation["engine"], observation["requests"][:, :VISIBLE]
        waits, age_s = rows[..., IS_WAITING] > 0, rows[..., SINCE_ARRIVAL_S]
        output = np.maximum(rows[..., PREDICTED_OUTPUT_TOKENS] - rows[..., GENERATED_TOKENS], 0.0)
        job = (output + self.prompt_weight * rows[..., KNOWN_TOKENS]) / self.largest_job
        oldest_s = np.where(waits, age_s, 0.0).max(axis=1, keepdims=True)
        due_s = self.patience * oldest_s * np.minimum(job, 1.0) - age_s
        first = np.where(waits, due_s, np.inf).argmin(axis=1)
        fits = np.take_along_axis(rows[..., LEGAL], first[:, None], axis=1)[:, 0] > 0
        return np.where(fits, first, NUM_ROWS + self._share(engine, oldest_s[:, 0]))

    def _share(self, engine: np.ndarray, oldest_s: np.ndarray) -> np.ndarray:
        """The number in SHARES of what prefills get of the budget, int64 (K,)."""
        running, seats_left = engine[:, ENGINE["running"]], engine[:, ENGINE["seats_left"]]
        used, blocks = engine[:, ENGINE["kv_used_blocks"]], engine[:, ENGINE["kv_total_blocks"]]
        room = (seats_left > self.slack * (seats_left + running)) & (blocks - used > self.slack * blocks)
        grow = room & (engine[:, ENGINE["waiting"]] >= self.long_queue)
        beside_decodes = np.where(grow, SHARES.index(0.5), SHARES.index(0.25))
        beside_decodes = np.where(room & (oldest_s > self.hurry_s), SHARES.index(1.0), beside_decodes)
        return np.where(engine[:, ENGINE["decoding"]] > 0, beside_decodes, SHARES.index(1.0))
