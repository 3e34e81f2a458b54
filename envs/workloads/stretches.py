"""Stretches of a trace: some requests in a row, thinned, from a random place on."""

import numpy as np

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.workload import Workload


class Stretches:
    """Draws stretches of a workload's requests; one costs what it holds, however long the workload is.

    key: who asks for how many, and part: what the workload is, for messages.
    """

    def __init__(
        self, workload: Workload, key: str = "scenario.episode.requests", part: str = "training part"
    ) -> None:
        self.workload, self.key, self.part = workload, key, part
        self._chain = None if workload.parent is None else workload.first_of_chain()
        self._ascending = None if self._chain is None else np.sort(self._chain)

    def draw(self, num_requests: int, keep: float, rng: np.random.Generator) -> Workload:
        """`num_requests` requests in a row of those kept, each with probability `keep`, times unchanged.

        Any request may be the first for which enough follow. Chains of follow-ups are kept or dropped whole,
        end where the stretch ends, and none is entered in its middle. InputError where too few are kept.
        """
        available = self.workload.num_requests
        most = available - num_requests if self._ascending is None else self._last_start(num_requests)
        while most >= 0:
            start = int(rng.integers(most + 1))
            kept = self._kept_from(start, num_requests, keep, rng)
            if len(kept) == num_requests:
                return self.workload.take(kept)
            most = start - 1  # from later ones even fewer would follow
            available = len(kept)
        raise InputError(
            f"{self.key} = {num_requests}: must be at most the {available} requests kept of the {self.part}"
        )

    def _last_start(self, num_requests: int) -> int:
        """From later ones on there are fewer requests whose chain is whole."""
        assert self._ascending is not None
        return int(self._ascending[-num_requests]) if num_requests <= len(self._ascending) else -1

    def _kept_from(self, start: int, num_requests: int, keep: float, rng: np.random.Generator) -> np.ndarray:
        """int64: the first `num_requests` requests kept from `start` on, or all where there are fewer."""
        uniform = np.zeros(0)
        kept = np.zeros(0, np.int64)
        while len(kept) < num_requests and start + len(uniform) < self.workload.num_requests:
            more = min(2 * num_requests, self.workload.num_requests - start - len(uniform))
            uniform = np.concatenate([uniform, rng.random(more)])
            if self._chain is None:
                is_kept = uniform < keep
            else:
                first = self._chain[start : start + len(uniform)] - start
                is_kept = (first >= 0) & (uniform[np.maximum(first, 0)] < keep)
            kept = np.flatnonzero(is_kept) + start
        return kept[:num_requests]
