"""What decides when a policy does not: few requests to few, in plain NumPy. It cannot fail."""

import numpy as np

from servegym.agents.serving.contracts import ILLEGAL, UNKNOWN
from servegym.agents.serving.routing.fleet_view import AVAILABLE, RUNNING, SPEED, UNSEEN_REQUESTS, WAITING


class LeastLoaded:
    """Least outstanding requests, for the speed of the replica; ties go round the fleet."""

    name = "least_loaded"
    bounded = True

    def __init__(self) -> None:
        self._turn = 0

    def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> np.ndarray:
        """float32 (R,): minus the load."""
        load = replicas[:, RUNNING] + replicas[:, WAITING] + replicas[:, UNSEEN_REQUESTS]
        scores = -load / np.maximum(replicas[:, SPEED], 1e-3)
        # Below one request, so it decides between equal ones only.
        count = len(replicas)
        scores -= ((np.arange(count) - self._turn) % count) / (8.0 * count)
        self._turn = (self._turn + 1) % count
        return np.where(replicas[:, AVAILABLE] > 0, scores, ILLEGAL).astype(np.float32)
