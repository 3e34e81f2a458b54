"""What a scheduler begins with and may do (`Rule` in agents/networks/engine_scorer.py)."""

from typing import NamedTuple

import numpy as np

from servegym.agents.serving.artifact.schema import ENGINE_FEATURES, ROW_FEATURES

SHARES = (0.0, 0.25, 0.5, 1.0)
"""Of the token budget, what prefills may take."""

VISIBLE = 32
"""Requests seen of those who wait, and of those who run."""

NUM_ROWS = 2 * VISIBLE

RULE = (
    "patience",
    "largest_job",
    "leeway",
    "prompt_weight",
    "long_queue",
    "slack",
    "hurry_s",
)
"""Its parameters in the order of the array `constants.rule`; an infinite leeway is none."""

_RUNNING, _WAITING, _DECODING, _SEATS_LEFT, _USED, _BLOCKS = (
    ENGINE_FEATURES.index(name)
    for name in ("running", "waiting", "decoding", "seats_left", "kv_used_blocks", "kv_total_blocks")
)
_KNOWN, _AGE, _LEGAL = (ROW_FEATURES.index(name) for name in ("known_tokens", "since_arrival_s", "legal"))


class Allowed(NamedTuple):
    """legal: bool (VISIBLE,), who may be admitted; shares: bool (4,), how an iteration may start; ruled: the
    number of what the rule does."""

    legal: np.ndarray
    shares: np.ndarray
    ruled: int


class SchedulerRule:
    """From its parameters, float32 (7,)."""

    def __init__(self, parameters: np.ndarray) -> None:
        values = dict(zip(RULE, parameters, strict=True))
        self._patience, self._largest_job = values["patience"], values["largest_job"]
        self._leeway, self._prompt_weight = values["leeway"], values["prompt_weight"]
        self._long_queue, self._slack = float(values["long_queue"]), float(values["slack"])
        self._hurry_s = float(values["hurry_s"])

    def allowed(
        self, engine: np.ndarray, waiting: np.ndarray, waits: np.ndarray, remaining: np.ndarray
    ) -> Allowed:
        """Of raw `engine` (13,) and the rows that wait: features first (12, VISIBLE), whether there is
        somebody, and what is still to be generated, bool and float32 (VISIBLE,)."""
        age_s = waiting[_AGE]
        oldest_s = age_s.max()
        job = (remaining + self._prompt_weight * waiting[_KNOWN]) / self._largest_job
        due_s = np.minimum(job, np.float32(1.0))
        due_s *= self._patience * oldest_s
        due_s -= age_s
        due_s[~waits] = np.inf
        first = int(due_s.argmin())
        legal = waiting[_LEGAL] > 0
        fits = bool(legal[first])
        legal &= waits if np.isinf(self._leeway) else due_s <= due_s[first] + self._leeway * oldest_s
        share, hurry = self._share(engine.tolist(), float(oldest_s))
        runs = engine[_RUNNING] > 0 and not fits
        less = runs and not hurry
        return Allowed(legal, np.array((False, less, less, runs)), first if fits else NUM_ROWS + share)

    def _share(self, engine: list[float], oldest_s: float) -> tuple[int, bool]:
        running, seats_left = engine[_RUNNING], engine[_SEATS_LEFT]
        used, blocks = engine[_USED], engine[_BLOCKS]
        room = seats_left > self._slack * (seats_left + running) and blocks - used > self._slack * blocks
        hurry = room and oldest_s > self._hurry_s
        if hurry or engine[_DECODING] == 0:
            return SHARES.index(1.0), hurry
        return SHARES.index(0.5 if room and engine[_WAITING] >= self._long_queue else 0.25), hurry
