"""One replica after the other, in plain NumPy: what policies are measured against."""

import numpy as np

from servegym.agents.serving.contracts import ILLEGAL, UNKNOWN
from servegym.agents.serving.routing.fleet_view import AVAILABLE


class RoundRobin:
    """The replica after the one chosen last that is available."""

    name = "round_robin"
    bounded = True

    def __init__(self) -> None:
        self._last = -1

    def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> np.ndarray:
        """float32 (R,): minus how many come before it."""
        count = len(replicas)
        behind = (np.arange(count) - self._last - 1) % count
        scores = np.where(replicas[:, AVAILABLE] > 0, -behind, ILLEGAL).astype(np.float32)
        self._last = int(scores.argmax())
        return scores
