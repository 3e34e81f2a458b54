"""Rankings: who goes first on a replica. docs/simulator.md, "Rankings".

    rank(requests, replica, parameters, memory, keys)

requests: float64 (n, REQUEST_COLUMNS), a row for each request asked about; its last columns, from MEMORY on,
may be written. replica: float64 (REPLICA_COLUMNS,). parameters: float64, the ranking's constants.
memory: float64, its own state on this replica, zero when an episode starts. keys: float64 (n,), to be filled:
the smaller, the earlier. The arrays are the simulator's own and change after the call.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.jit import jit_for
from servegym.envs.sim.llm.engine import Engine
from servegym.envs.sim.llm.needs import NEEDS

Array = npt.NDArray[Any]

RANK = types.void(
    types.float64[:, ::1], types.float64[::1], types.float64[::1], types.float64[::1], types.float64[::1]
)
"""Signature of `rank`."""

compiled_ranking = jit_for(RANK)
"""Decorator that compiles a `rank` function."""

(
    ARRIVAL_S,
    PROMPT_TOKENS,
    GENERATED_TOKENS,
    COMPUTED_TOKENS,
    PREDICTED_OUTPUT_TOKENS,
    PREDICTED_REMAINING_TOKENS,
    PRIORITY,
    TENANT,
    TTFT_SLO_S,
    TPOT_SLO_S,
    PLACE,
    SERVED,
    MEMORY,
) = range(13)
"""Columns of a request's row."""

MEMORY_COLUMNS = 3
REQUEST_COLUMNS = MEMORY + MEMORY_COLUMNS

WAITING, SWAPPED, RUNNING, GONE = range(4)
"""What PLACE says."""

(
    NOW_S,
    LAST_ITERATION_S,
    FREE_BLOCKS,
    TOTAL_BLOCKS,
    BLOCK_SIZE,
    MAX_BATCHED_TOKENS,
    MAX_SEQS,
) = range(7)
"""Columns of the replica's row."""

REPLICA_COLUMNS = 7

RANKS = ("queue", "batch")
"""When a ranking is asked: about a request that enters the queue, or about all before an iteration."""


@dataclass(frozen=True)
class Ranking:
    """A scheduler that only says who goes first, with its constants.

    rank: compiled with `compiled_ranking`, or any Python callable of the same arguments (slower).
    ranks: one of `RANKS`. every_iteration: it must see every iteration (only with "batch").
    parameters: float64 (P,) constants passed to it. memory_size: numbers it keeps for each replica.
    engine: settings of the engine that it brings along, by name.
    needs: what the scenario must have for it, names in `NEEDS`. Raises InputError for other names.
    """

    name: str
    rank: Callable[..., None]
    ranks: str = "batch"
    every_iteration: bool = False
    parameters: np.ndarray = field(default_factory=lambda: np.zeros(0))
    memory_size: int = 0
    engine: Mapping[str, object] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.ranks not in RANKS:
            raise InputError(
                f"scheduler {self.name}: ranks = {self.ranks}: must be one of {', '.join(RANKS)}"
            )
        if self.every_iteration and self.ranks != "batch":
            raise InputError(f"scheduler {self.name}: every_iteration: only where it ranks batches")
        for need in self.needs:
            if need not in NEEDS:
                raise InputError(f"scheduler {self.name}: needs {need}: must be among {', '.join(NEEDS)}")

    @property
    def is_compiled(self) -> bool:
        """Whether the simulator can call it without the interpreter."""
        return hasattr(self.rank, "py_func")

    def applied_to(self, engine: Engine) -> Engine:
        """The engine as this ranking runs it: its limits, with the scheduler and order that use a ranking.

        InputError where both cannot go together.
        """
        settings: dict[str, object] = dict(self.engine)
        if self.ranks == "batch":
            settings |= {"scheduler": "ranked", "order": "fcfs"}
        else:
            settings |= {"order": "rank"}
        try:
            return replace(engine, **settings)  # type: ignore[arg-type]
        except InputError as error:
            raise InputError(f"scheduler {self.name}: {error}") from error


def check_ranking(engine: Engine, ranking: Ranking | None) -> None:
    """Raises InputError where an engine needs another ranking than it gets."""
    ranks = None if ranking is None else ranking.ranks
    for key, value, needed in (("scheduler", "ranked", "batch"), ("order", "rank", "queue")):
        if getattr(engine, key) == value and ranks != needed:
            given = f"scheduler {ranking.name} ranks the {ranks}" if ranking else "there is none"
            raise InputError(f'engine.{key} = {value}: needs a ranking with ranks = "{needed}", and {given}')
