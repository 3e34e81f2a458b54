"""Policies that know the length of the queue, as tables: the optimal one's form, and simple ones.

A table has the batch to start when 0, 1, ... requests wait, 0 to wait; its last entry is for any more.
"""

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.envs.dynamic_batching.observation import DRAINING, QUEUE
from servegym.envs.dynamic_batching.scenario import DynamicBatchingScenario

Sizes = npt.NDArray[np.int64]


def greedy(scenario: DynamicBatchingScenario) -> Sizes:
    """Work-conserving: all that wait, up to `max_batch`, as soon as the server is free."""
    return control_limit(scenario, scenario.min_batch)


def static(scenario: DynamicBatchingScenario, size: int) -> Sizes:
    """Always batches of `size`, which are waited for."""
    if not scenario.min_batch <= size <= scenario.max_batch:
        raise InputError(
            f"batch size {size}: must be from {scenario.min_batch} to {scenario.max_batch}, as the scenario "
            "has it"
        )
    return np.append(np.zeros(size, np.int64), size)


def control_limit(scenario: DynamicBatchingScenario, limit: int) -> Sizes:
    """Waits for `limit` requests, then starts with all that wait, up to `max_batch` (a Q-policy)."""
    if limit < scenario.min_batch:
        raise InputError(f"control limit {limit}: must be at least min_batch, {scenario.min_batch}")
    queue = np.arange(max(limit, scenario.max_batch) + 1)
    return np.where(queue < limit, 0, np.minimum(queue, scenario.max_batch))


def control_limit_of(sizes: npt.ArrayLike, max_batch: int) -> int | None:
    """The limit of a table that is a `control_limit`, else None."""
    table = np.asarray(sizes)
    serving = np.flatnonzero(table)
    if len(serving) == 0:
        return None
    queue = np.arange(len(table))
    same = table == np.where(queue < serving[0], 0, np.minimum(queue, max_batch))
    return int(serving[0]) if same.all() else None


class BatchTablePolicy:
    """A table as a policy for `servegym/DynamicBatching-v0`, K episodes at once.

    When no request will come any more it starts what it would wait for.
    """

    def __init__(self, name: str, sizes: npt.ArrayLike, scenario: DynamicBatchingScenario) -> None:
        self.name = name
        self.sizes = np.asarray(sizes, np.int64)
        self._max_batch = scenario.max_batch

    def reset(self, num_episodes: int, seed: int) -> None:
        """Nothing to forget, and nothing is drawn."""

    def act(self, observation: np.ndarray) -> np.ndarray:
        """int64 (K,): the batch to start in each episode, from observations (K, FEATURES)."""
        queue = observation[:, QUEUE].astype(np.int64)
        sizes = self.sizes[np.minimum(queue, len(self.sizes) - 1)]
        leftover = (sizes == 0) & (observation[:, DRAINING] > 0)
        actions: np.ndarray = np.where(leftover, np.minimum(queue, self._max_batch), sizes)
        return actions
