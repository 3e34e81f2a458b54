"""What a ranking works with: its address, its memory, and where its rows and keys are written."""

from typing import Any, NamedTuple

import numpy as np

NO_RANKING, RANKS_QUEUE, RANKS_BATCH = range(3)

UNSEEN, NEVER_SERVED = -2, -1
"""`last_batch` of a request that the ranking has not seen yet, or that was in no batch yet."""


class RankingState(NamedTuple):
    """The ranking of a fleet; where there is none, all arrays are empty.

    ranks: when it is asked. every_iteration: 1 where it must see every one.
    rank: address of the compiled function; callback: else of a C function (replica, rows) that calls Python.
    write_key: address of the function that asks about one request which enters the queue, see asking.py.
    parameters: float64 (P,); memory: float64 (S, M); request_memory: float64 (N, 3).
    promises: float64 (N, 3), tenant, TTFT and TPOT limits of each request.
    rows, row_of_replica, keys: float64 (n, 15), (7,) and (n,), what it is given; n = 1 for queues, else N.
    ids: int32 (n,), the request of each row; order, merged: int32 (n,), rows while they are being sorted.
    last_batch: int64 (N,), iterations its replica had completed after the last one it was in.
    gone, gone_first: int32 (N,) and (S,), a list for each replica of requests to be shown once more.
    """

    ranks: int
    every_iteration: int
    rank: Any
    callback: int
    write_key: Any
    parameters: np.ndarray
    memory: np.ndarray
    request_memory: np.ndarray
    promises: np.ndarray
    rows: np.ndarray
    row_of_replica: np.ndarray
    keys: np.ndarray
    ids: np.ndarray
    order: np.ndarray
    merged: np.ndarray
    last_batch: np.ndarray
    gone: np.ndarray
    gone_first: np.ndarray


def no_ranking() -> RankingState:
    """Of a fleet without a ranking."""
    nothing, table, numbers = np.zeros(0), np.zeros((0, 0)), np.zeros(0, np.int32)
    return RankingState(
        ranks=NO_RANKING,
        every_iteration=0,
        rank=0,
        callback=0,
        write_key=0,
        parameters=nothing,
        memory=table,
        request_memory=table,
        promises=table,
        rows=table,
        row_of_replica=nothing,
        keys=nothing,
        ids=numbers,
        order=numbers,
        merged=numbers,
        last_batch=np.zeros(0, np.int64),
        gone=numbers,
        gone_first=numbers,
    )
