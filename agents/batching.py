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

_DECODING = [name for name, _ in ENGINE_COLUMNS].index("decoding")


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
    """Shortest job first among those who wait, each put off by `most_s` at most, with short prefills (ours).

    A job of `predicted output still to come + prompt_weight * tokens to prefill` is due that many tokens at
    `tokens_per_s` after its arrival, at the latest after `most_s`; who is due first is admitted first, and
    nobody else while that one does not fit. So nobody is overtaken by requests that come more than `most_s`
    later. While others decode, prefills get the share of the token budget nearest above 0.
    """

    name = "bounded_shortest_first"

    def __init__(self, prompt_weight: float = 0.3, tokens_per_s: float = 30.0, most_s: float = 25.0) -> None:
        self.prompt_weight, self.tokens_per_s, self.most_s = prompt_weight, tokens_per_s, most_s

    def reset(self, num_episodes: int, seed: int) -> None:
        """Has nothing to forget."""

    def act(self, observation: Observation) -> np.ndarray:
        """int64 (K,)."""
        engine, rows = observation["engine"], observation["requests"][:, :VISIBLE]
        output = np.maximum(rows[..., PREDICTED_OUTPUT_TOKENS] - rows[..., GENERATED_TOKENS], 0.0)
        job_s = (output + self.prompt_weight * rows[..., KNOWN_TOKENS]) / self.tokens_per_s
        due_s = np.minimum(job_s, self.most_s) - rows[..., SINCE_ARRIVAL_S]
        first = np.where(rows[..., IS_WAITING] > 0, due_s, np.inf).argmin(axis=1)
        fits = np.take_along_axis(rows[..., LEGAL], first[:, None], axis=1)[:, 0] > 0
        share = np.where(engine[:, _DECODING] > 0, 1, len(SHARES) - 1)
        return np.where(fits, first, NUM_ROWS + share)
