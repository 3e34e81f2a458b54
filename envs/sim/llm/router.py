"""Routers as the simulator sees them: a compiled function called through a pointer.

    choose(replicas, request, parameters, memory, random_state) -> replica

replicas: float64 (R, ROUTER_REPLICA_FEATURES) and request: float64 (ROUTER_REQUEST_FEATURES,), see view.py.
parameters: float64, the router's constants. memory: float64, its own state, zero when an episode starts.
random_state: uint64 (1,), for `next_uniform`. The replica it returns must have AVAILABLE = 1.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.jit import jit, jit_for
from servegym.envs.sim.llm.needs import NEEDS, READ_IDENTITIES

Array = npt.NDArray[Any]

CHOOSE = types.int64(
    types.float64[:, ::1], types.float64[::1], types.float64[::1], types.float64[::1], types.uint64[::1]
)
"""Signature of `choose`."""

ChoosePointer = types.FunctionType(CHOOSE)
"""Type of a pointer to such a function, for the signatures of those who call it."""

compiled_router = jit_for(CHOOSE)
"""Decorator that compiles a `choose` function."""


@dataclass(frozen=True)
class Router:
    """A router with its constants.

    choose: compiled with `compiled_router`, or any Python callable of the same arguments (slower).
    parameters: float64 (P,) constants passed to it. memory_size: numbers it keeps during an episode, and
    memory_per_replica for each replica.
    looks: whether it reads the replicas' rows; without, the simulator need not bring them up to date.
    reads_router_columns: whether it reads those of LOAD_COLUMNS or STANDING_COLUMNS of the rows.
    needs: what the scenario must have for it, names in `NEEDS`. Raises InputError for other names.
    """

    name: str
    choose: Callable[..., int]
    parameters: np.ndarray = field(default_factory=lambda: np.zeros(0))
    memory_size: int = 0
    memory_per_replica: int = 0
    looks: bool = True
    reads_router_columns: bool = False
    needs: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for need in self.needs:
            if need not in NEEDS:
                raise InputError(f"router {self.name}: needs {need}: must be among {', '.join(NEEDS)}")

    @property
    def is_compiled(self) -> bool:
        """Whether the simulator can call it without the interpreter."""
        return hasattr(self.choose, "py_func")

    @property
    def reads_beyond_observations(self) -> bool:
        """Whether it reads what environments do not show: sessions, prefixes, or columns of routers only."""
        return self.reads_router_columns or bool(self.needs & READ_IDENTITIES)

    def new_memory(self, num_replicas: int) -> np.ndarray:
        """float64 zeros: its memory when an episode starts."""
        return np.zeros(self.memory_size + self.memory_per_replica * num_replicas)


@jit
def next_uniform(random_state: Array) -> float:
    """Draws from [0, 1) and moves `random_state` (uint64 (1,)) on.

    SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
    """
    random_state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = random_state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return float((z >> np.uint64(11)) * (1.0 / (1 << 53)))


def random_state(seed: np.random.SeedSequence) -> np.ndarray:
    """A fresh state (uint64 (1,)) for `next_uniform`."""
    return seed.generate_state(1, np.uint64)
