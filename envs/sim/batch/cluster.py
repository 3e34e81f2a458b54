"""`BatchCluster`: models, the GPUs that they share, and the delays between them."""

import math
from dataclasses import dataclass, fields

from servegym.costmodels.errors import InputError
from servegym.envs.sim.batch.model import ServedModel


@dataclass(frozen=True)
class Delays:
    """Seconds on the way: a batch to its GPU, `control_s + data_s * size`; its answer to the client."""

    control_s: float = 0.0
    data_s: float = 0.0
    response_s: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < math.inf:
                raise InputError(f"delays.{field.name} = {value}: must be at least 0 and finite")

    def lead_s(self, batch: int) -> float:
        """From sending a batch to its arrival at a GPU."""
        return self.control_s + self.data_s * batch


SYMPHONY_DELAYS = Delays(control_s=100e-6, data_s=50e-6, response_s=2e-3)
"""As Symphony's dispatcher assumes by default [its code, dispatcher]."""


@dataclass(frozen=True)
class BatchCluster:
    """Equal GPUs that serve several models.

    InputError for a model that could never be in time, or that does not fit.
    """

    models: tuple[ServedModel, ...]
    num_gpus: int
    delays: Delays = Delays()
    gpu_memory_bytes: float = math.inf

    def __post_init__(self) -> None:
        if not self.models:
            raise InputError("models: must be at least one")
        if self.num_gpus < 1:
            raise InputError(f"num_gpus = {self.num_gpus}: must be at least 1")
        if not self.gpu_memory_bytes > 0:
            raise InputError(f"gpu_memory_bytes = {self.gpu_memory_bytes}: must be above 0")
        for model in self.models:
            least = model.latency_s[0] + self.delays.lead_s(1) + self.delays.response_s
            if model.slo_s < least:
                raise InputError(
                    f"model {model.name}: slo_s = {model.slo_s}: must be at least {least:.6g}, "
                    "what a batch of 1 takes with its delays"
                )
        self._check_memory()

    @property
    def has_limited_memory(self) -> bool:
        """Whether GPUs have to load models."""
        return self.gpu_memory_bytes < math.inf

    def _check_memory(self) -> None:
        sizes = sorted(model.memory_bytes for model in self.models)
        if sum(sizes[-2:]) > self.gpu_memory_bytes:
            largest = max(self.models, key=lambda model: model.memory_bytes)
            raise InputError(
                f"gpu_memory_bytes = {self.gpu_memory_bytes:g}: must hold the two largest models at once, "
                f"{sum(sizes[-2:]):g}; the largest is {largest.name}"
            )
