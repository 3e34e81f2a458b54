"""A ranking as the simulator calls it."""

import numba
import numpy as np

from servegym.costmodels.native.calls import Callback, address_of
from servegym.envs.sim.llm.ranking import (
    MEMORY_COLUMNS,
    RANK,
    REPLICA_COLUMNS,
    REQUEST_COLUMNS,
    Ranking,
)
from servegym.envs.sim.llm.ranking_state import (
    RANKS_BATCH,
    RANKS_QUEUE,
    UNSEEN,
    RankingState,
)
from servegym.envs.sim.llm.state import NOBODY
from servegym.envs.workloads import Workload


class RankingCall:
    """Makes the states of fleets that use a ranking, and must live as long as they; None: they use none."""

    def __init__(self, ranking: Ranking | None) -> None:
        self._ranking = ranking
        self._callbacks: list[Callback] = []

    def new_state(self, num_replicas: int, workload: Workload) -> RankingState | None:
        """Of a fleet before its first request."""
        ranking = self._ranking
        if ranking is None:
            return None
        count = workload.num_requests
        rows = count if ranking.ranks == "batch" else 1
        state = RankingState(
            ranks=RANKS_BATCH if ranking.ranks == "batch" else RANKS_QUEUE,
            every_iteration=int(ranking.every_iteration),
            rank=0,
            callback=0,
            write_key=0,
            parameters=np.array(ranking.parameters, np.float64),
            memory=np.zeros((num_replicas, ranking.memory_size)),
            request_memory=np.zeros((count, MEMORY_COLUMNS)),
            promises=_promises(workload),
            rows=np.zeros((rows, REQUEST_COLUMNS)),
            row_of_replica=np.zeros(REPLICA_COLUMNS),
            keys=np.zeros(rows),
            ids=np.zeros(rows, np.int32),
            order=np.zeros(rows, np.int32),
            merged=np.zeros(rows, np.int32),
            last_batch=np.full(count, UNSEEN, np.int64),
            gone=np.zeros(count, np.int32),
            gone_first=np.full(num_replicas, NOBODY, np.int32),
        )
        if ranking.is_compiled:
            return state._replace(rank=address_of(ranking.rank, *RANK.args))
        if numba.config.DISABLE_JIT:
            return state._replace(rank=ranking.rank)
        rank = ranking.rank

        def call(replica_id: int, rows: int) -> None:
            memory = state.memory[replica_id]
            rank(state.rows[:rows], state.row_of_replica, state.parameters, memory, state.keys[:rows])

        self._callbacks.append(Callback(call))
        return state._replace(callback=self._callbacks[-1].address)

    def raise_error(self) -> None:
        """Raises what a ranking in Python has raised, which stopped the simulation, if it has."""
        for callback in self._callbacks:
            callback.raise_error()


def _promises(workload: Workload) -> np.ndarray:
    """float64 (N, 3): tenant, TTFT and TPOT limits (s, inf without) of each request."""
    promises = np.full((workload.num_requests, 3), np.inf)
    promises[:, 0] = 0 if workload.tenant is None else workload.tenant
    if workload.slo_class is not None:
        limits = np.array([(each.ttft_s, each.tpot_s) for each in workload.slo_classes])
        promises[:, 1:] = limits[workload.slo_class]
    return promises
