"""What a ranking is shown, with columns by name; and asking it."""

from typing import Any

import numpy as np

from servegym.envs.sim.llm import ranking as columns
from servegym.envs.sim.llm.ranking import GONE, MEMORY, REPLICA_COLUMNS, REQUEST_COLUMNS, Ranking


def rows_of(num: int, **values: Any) -> np.ndarray:
    """Rows of `num` requests that wait, promised nothing, with some columns (lower case) given by name."""
    rows = np.zeros((num, REQUEST_COLUMNS))
    rows[:, [columns.TTFT_SLO_S, columns.TPOT_SLO_S]] = np.inf
    for name, value in values.items():
        rows[:, getattr(columns, name.upper())] = value
    return rows


def replica_of(**values: float) -> np.ndarray:
    """A replica's row with a budget of 2,048 tokens, other columns 0 but for those given by name."""
    row = np.zeros(REPLICA_COLUMNS)
    row[columns.MAX_BATCHED_TOKENS] = 2048
    for name, value in values.items():
        row[getattr(columns, name.upper())] = value
    return row


class Asked:
    """A ranking on one replica, with what it remembers."""

    def __init__(self, ranking: Ranking) -> None:
        self.ranking = ranking
        self.memory = np.zeros(ranking.memory_size)

    def keys(self, rows: np.ndarray, **replica: float) -> np.ndarray:
        """Keys (n,) of these requests; their memory columns are written."""
        keys = np.full(len(rows), np.nan)
        self.ranking.rank(rows, replica_of(**replica), self.ranking.parameters, self.memory, keys)
        assert not np.isnan(keys[rows[:, columns.PLACE] != GONE]).any()
        return keys

    def order(self, rows: np.ndarray, **replica: float) -> list[int]:
        """Rows in the order in which they are served: by key, then by arrival."""
        order = np.lexsort((rows[:, columns.ARRIVAL_S], self.keys(rows, **replica)))
        return [int(row) for row in order]


def order_of(ranking: Ranking, rows: np.ndarray, **replica: float) -> list[int]:
    """The order in which requests seen for the first time are served."""
    rows[:, MEMORY:] = 0
    return Asked(ranking).order(rows, **replica)
