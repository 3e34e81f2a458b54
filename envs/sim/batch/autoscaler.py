"""Autoscalers: how many GPUs there shall be.

    scale(signal, parameters, memory, wanted)

signal: float64 (SIGNAL_COLUMNS,). parameters: float64, its constants. memory: float64, its own, zero at the
start. wanted: int64 (1,), to be filled: GPUs from now on.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numba import types

from servegym.costmodels.errors import InputError
from servegym.costmodels.native.jit import jit_for

SCALE = types.void(types.float64[::1], types.float64[::1], types.float64[::1], types.int64[::1])
"""Signature of `scale`."""

compiled_autoscaler = jit_for(SCALE)
"""Decorator that compiles a `scale` function."""

NOW_S, NUM_ACTIVE, WINDOW_S, NUM_ARRIVED, NUM_ENDED, NUM_BAD, BUSY_S, REQUIRED_S = range(8)
"""Columns of the signal; all but the first three are of the window since the last call."""

SIGNAL_COLUMNS = 8


@dataclass(frozen=True)
class Autoscaler:
    """An autoscaler with its constants. InputError for values out of range.

    scale: compiled with `compiled_autoscaler`, or any Python callable of the same arguments (slower).
    every_s: seconds between its calls. startup_s: until a GPU it calls for can work. initial: GPUs at
    the start.
    """

    name: str
    scale: Callable[..., None]
    every_s: float
    startup_s: float = 0.0
    initial: int = 1
    parameters: np.ndarray = field(default_factory=lambda: np.zeros(0))
    memory_size: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.every_s < math.inf:
            raise InputError(f"autoscaler {self.name}: every_s = {self.every_s}: must be above 0 and finite")
        if not 0 <= self.startup_s < math.inf:
            raise InputError(
                f"autoscaler {self.name}: startup_s = {self.startup_s}: must be at least 0 and finite"
            )
        if self.initial < 1:
            raise InputError(f"autoscaler {self.name}: initial = {self.initial}: must be at least 1")

    @property
    def is_compiled(self) -> bool:
        """Whether the simulator can call it without the interpreter."""
        return hasattr(self.scale, "py_func")
