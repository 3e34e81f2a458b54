"""Schedulers of a cluster: a function of what happens, which acts.

    schedule(state, event, subject)

event: FREED with a GPU, ARRIVAL with a model, TIMER with a timer. It looks at the cluster through `queues.py`
and does what it wants through `actions.py`, any number of actions at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from servegym.costmodels.native.jit import jit

compiled_schedule = jit
"""Decorator that compiles a `schedule` function."""


@dataclass(frozen=True)
class BatchScheduler:
    """A scheduler with its constants.

    schedule: compiled with `compiled_schedule`, or any Python callable of the same arguments (slower);
    what it raises ends the simulation. parameters: float64 (P,) constants, in `state.parameters`.
    memory_size: numbers it keeps in `state.memory`, and memory_per_model and memory_per_gpu of each model and
    GPU in `state.model_memory` and `state.gpu_memory`; all zero at the start.
    memory_for: more numbers in `state.memory` by numbers of models and GPUs, for tables.
    """

    name: str
    schedule: Callable[..., None]
    parameters: np.ndarray = field(default_factory=lambda: np.zeros(0))
    memory_size: int = 0
    memory_per_model: int = 0
    memory_per_gpu: int = 0
    memory_for: Callable[[int, int], int] = lambda num_models, num_gpus: 0

    @property
    def is_compiled(self) -> bool:
        """Whether the simulator can call it without the interpreter."""
        return hasattr(self.schedule, "py_func")
