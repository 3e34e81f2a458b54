"""Managers of an elastic fleet: a function of its state, which acts.

    manage(state)

is called at every instant at which something has happened. It looks at the fleet through `state.py`,
`queue.py` and `groups.py`, and does what it wants through `actions.py`, any number of actions at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from servegym.costmodels.native.jit import jit

compiled_manage = jit
"""Decorator that compiles a `manage` function."""


def _nothing(num_instances: int, max_group: int, max_requests: int) -> int:
    return 0


@dataclass(frozen=True)
class Manager:
    """A manager with its constants.

    manage: compiled with `compiled_manage`, or any Python callable of the same argument (slower); what it
    raises ends the simulation. parameters: float64 (P,) constants, in `state.parameters`. memory_for and
    integers_for: how many numbers it keeps in `state.memory` (float64) and `state.integers` (int64), by
    number of instances, most requests of a group, and requests of the workload; all zero at the start.
    """

    name: str
    manage: Callable[..., None]
    parameters: np.ndarray = field(default_factory=lambda: np.zeros(0))
    memory_for: Callable[[int, int, int], int] = _nothing
    integers_for: Callable[[int, int, int], int] = _nothing

    @property
    def is_compiled(self) -> bool:
        """Whether the simulator can call it without the interpreter."""
        return hasattr(self.manage, "py_func")
