"""A ranking at work on one replica: what it is shown, and the keys that it gives ("Rankings")."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from servegym.costmodels.errors import InputError
from servegym.envs.sim.llm import ranking as columns
from servegym.envs.sim.llm.ranking import Ranking
from tests.reference.request import Request
from tests.reference.settings import ReplicaSpec

if TYPE_CHECKING:
    from tests.reference.replica import Replica

__all__ = ["Ranker", "Ranking", "check_ranking"]


def check_ranking(ranking: Ranking | None, replicas: Sequence[ReplicaSpec]) -> None:
    """Raises `InputError` where an engine needs a ranking that is not there, or one of the other kind."""
    for number, spec in enumerate(replicas):
        needed = ""
        if spec.engine and spec.engine.scheduler == "ranked":
            needed = "batch"
        elif spec.engine and spec.engine.order == "rank":
            needed = "queue"
        if needed and (ranking is None or ranking.ranks != needed):
            given = "none" if ranking is None else f"one with ranks {ranking.ranks}"
            raise InputError(f"replica {number}: needs a ranking with ranks {needed}, given is {given}")


class Ranker:
    """Asks the ranking, and keeps what it remembers of this replica."""

    def __init__(self, ranking: Ranking) -> None:
        self.ranking = ranking
        self.rank = getattr(ranking.rank, "py_func", ranking.rank)
        self.gone: list[Request] = []  # finished or cancelled since it was last asked
        self.clear()

    def clear(self) -> None:
        self.memory = np.zeros(self.ranking.memory_size)
        self.gone = []

    def key_in_queue(self, replica: "Replica", request: Request, now_s: float) -> float:
        """The key of a request that enters `waiting` now."""
        return self._ask(replica, [request], [columns.WAITING], now_s)[0]

    def order(self, replica: "Replica") -> list[Request]:
        """All requests of the replica by `(key, arrival_s, workload index)`; those gone are shown as well."""
        present = replica.present()
        places = [columns.RUNNING] * len(replica.running)
        places += [columns.WAITING] * len(replica.waiting) + [columns.SWAPPED] * len(replica.swapped)
        gone = [r for r in self.gone if r.rank_memory is not None]  # once more: it has been shown before
        self.gone = []
        keys = self._ask(replica, present + gone, places + [columns.GONE] * len(gone), replica.now_s)
        for request, key in zip(present, keys, strict=False):
            request.rank_key = key
        return sorted(present, key=lambda r: (r.rank_key, r.arrival_s, r.index))

    def _ask(
        self, replica: "Replica", requests: Sequence[Request], places: Sequence[int], now_s: float
    ) -> list[float]:
        rows = np.array([_row(replica, r, place) for r, place in zip(requests, places, strict=True)])
        about_replica = _replica_row(replica, now_s)
        if self.ranking.ranks == "queue":
            rows[:, columns.SERVED] = 0
            about_replica[[columns.LAST_ITERATION_S, columns.FREE_BLOCKS]] = 0
        keys = np.full(len(requests), math.nan)
        self.rank(rows, about_replica, self.ranking.parameters, self.memory, keys)
        for request, row, place, key in zip(requests, rows, places, keys, strict=True):
            request.rank_memory = row[columns.MEMORY :].copy()
            if place != columns.GONE and math.isnan(key):
                raise InputError(f"scheduler {self.ranking.name}: key nan of request {request.index}")
        return [float(key) for key in keys]


def _row(replica: "Replica", request: Request, place: int) -> NDArray[np.float64]:
    row = np.zeros(columns.REQUEST_COLUMNS)
    row[columns.ARRIVAL_S] = request.arrival_s
    row[columns.PROMPT_TOKENS] = request.prompt_tokens
    row[columns.GENERATED_TOKENS] = request.generated
    row[columns.COMPUTED_TOKENS] = request.computed
    row[columns.PREDICTED_OUTPUT_TOKENS] = request.predicted_output_tokens
    row[columns.PREDICTED_REMAINING_TOKENS] = request.predicted_remaining(place == columns.RUNNING)
    row[columns.PRIORITY] = request.priority
    row[columns.TENANT] = request.tenant
    row[columns.TTFT_SLO_S] = request.ttft_slo_s
    row[columns.TPOT_SLO_S] = request.tpot_slo_s
    row[columns.PLACE] = place
    row[columns.SERVED] = request in replica.last_batch
    if request.rank_memory is not None:
        row[columns.MEMORY :] = request.rank_memory
    return row


def _replica_row(replica: "Replica", now_s: float) -> NDArray[np.float64]:
    row = np.zeros(columns.REPLICA_COLUMNS)
    row[columns.NOW_S] = now_s
    row[columns.LAST_ITERATION_S] = replica.last_iteration_s
    row[columns.FREE_BLOCKS] = replica.free_blocks
    row[columns.TOTAL_BLOCKS] = replica.engine.num_kv_blocks
    row[columns.BLOCK_SIZE] = replica.engine.block_size
    row[columns.MAX_BATCHED_TOKENS] = replica.engine.max_num_batched_tokens
    row[columns.MAX_SEQS] = replica.engine.max_num_seqs
    return row
