"""Which models a GPU with limited memory holds."""

from collections.abc import Sequence

from servegym.envs.sim.batch.model import ServedModel
from tests.reference.batch.gpu import Gpu


class Memory:
    """Evicts the models of a GPU that were used longest ago."""

    def __init__(self, models: Sequence[ServedModel], capacity_bytes: float, control_s: float) -> None:
        self.models = models
        self.capacity_bytes = capacity_bytes
        self.control_s = control_s

    def held_bytes(self, gpu: Gpu) -> float:
        """Bytes of the models that `gpu` holds."""
        return sum(self.models[m].memory_bytes for m in sorted(gpu.loaded_s))

    def fill(self, gpu: Gpu) -> None:
        """Model 0, 1, ... as long as they fit."""
        for number, model in enumerate(self.models):
            if self.held_bytes(gpu) + model.memory_bytes > self.capacity_bytes:
                return
            gpu.loaded_s[number] = 0.0

    def load(self, gpu: Gpu, model: int, now: float) -> float:
        """When `model` is in the memory of `gpu`; it is loaded if it is not there."""
        if model not in gpu.loaded_s:
            while self.held_bytes(gpu) + self.models[model].memory_bytes > self.capacity_bytes:
                unused = [m for m in gpu.loaded_s if all(batch.model != m for batch in gpu.held)]
                del gpu.loaded_s[min(unused, key=lambda m: (gpu.used_at.get(m, 0.0), m))]
            gpu.loaded_s[model] = now + self.control_s + self.models[model].load_s
        gpu.used_at[model] = now
        return gpu.loaded_s[model]
