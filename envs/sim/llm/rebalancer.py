"""Rebalancers as the simulator sees them: who gives a decoding request to whom, who starts, who stops.

    choose(replicas, parameters, memory, random_state, moves, orders) -> number of moves

replicas: float64 (R, ROUTER_REPLICA_FEATURES) as in view.py; of no request in particular, so AVAILABLE is 1
where a request may migrate to and PREFIX_HIT_TOKENS is 0. parameters, memory, random_state: as of a router.
moves: int64 (R, 2), to be filled with pairs (source, target) of replicas, in the order of their turns.
orders: int64 (R,), what each replica is to do, before the moves; KEEP (go on) where the rule writes nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numba import types

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.jit import jit_for
from servegym.envs.sim.llm.router import Array

KEEP, START, STOP, BE_MIXED, BE_PREFILL, BE_DECODE, BE_ENCODE = range(7)
"""Orders. START: an inactive replica starts, a draining one goes on. STOP: one drains, then is inactive.

BE_...: one drains and takes the role; BE_MIXED + role, by its number in cluster/plan.py.
"""

CHOOSE_MOVES = types.int64(
    types.float64[:, ::1],
    types.float64[::1],
    types.float64[::1],
    types.uint64[::1],
    types.int64[:, ::1],
    types.int64[::1],
)
"""Signature of `choose`."""

ChooseMovesPointer = types.FunctionType(CHOOSE_MOVES)
"""Type of a pointer to such a function, for the signatures of those who call it."""

compiled_rebalancer = jit_for(CHOOSE_MOVES)
"""Decorator that compiles a `choose` function."""


@dataclass(frozen=True)
class Rebalancer:
    """A rule that moves running requests and orders replicas about, with its constants.

    choose: compiled with `compiled_rebalancer`, or any Python callable of the same arguments (slower).
    parameters: float64 (P,) constants passed to it. memory_size: numbers it keeps during a run.
    switches_roles: whether it only makes sense where roles change.
    """

    name: str
    choose: Callable[..., int]
    parameters: np.ndarray = field(default_factory=lambda: np.zeros(0))
    memory_size: int = 0
    switches_roles: bool = False

    @property
    def is_compiled(self) -> bool:
        """Whether the simulator can call it without the interpreter."""
        return hasattr(self.choose, "py_func")

    def refusal(self, moves: np.ndarray, count: int, orders: np.ndarray) -> InputError:
        """What to raise for an unknown order, for moves of no replica, or for too many."""
        unknown = np.flatnonzero((orders < KEEP) | (orders > BE_ENCODE))
        if len(unknown):
            number = unknown[0]
            return InputError(
                f"rebalancer {self.name!r}: gave replica {number} the order {orders[number]}: must be from "
                f"{KEEP} to {BE_ENCODE}"
            )
        return InputError(
            f"rebalancer {self.name!r}: gave {count} moves, {moves[: max(0, count)].tolist()}: must be "
            f"at most {len(moves)} pairs of replicas from 0 to {len(moves) - 1}"
        )


@compiled_rebalancer
def _choose_nothing(
    replicas: Array, parameters: Array, memory: Array, random_state: Array, moves: Array, orders: Array
) -> int:
    return 0


STAY = Rebalancer("stay", _choose_nothing)
"""Moves nobody."""
