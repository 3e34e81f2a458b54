"""`ServedModel`: a network as batch serving sees it."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError


class BatchLatency(Protocol):
    """Seconds by batch size: `LinearBatchLatency`, `TabulatedBatchLatency`, or the like."""

    def seconds(self, batch: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Seconds of batches of these sizes."""


@dataclass(frozen=True)
class ServedModel:
    """A model on the GPUs of a cluster. Raises InputError, with its name, for what cannot be.

    latency_s: seconds of a batch of 1, 2, ... requests, positive and falling nowhere; their number is the
    largest batch. slo_s: from a request's arrival to its answer, inf for no objective. energy_j: joules of a
    batch of each size; empty for none. load_s, memory_bytes: loading it to a GPU and its room there, where
    GPUs have limited memory.
    """

    name: str
    latency_s: tuple[float, ...]
    slo_s: float = math.inf
    energy_j: tuple[float, ...] = ()
    load_s: float = 0.0
    memory_bytes: float = 0.0

    def __post_init__(self) -> None:
        latency = np.array(self.latency_s, np.float64)
        if latency.size == 0:
            raise self._error("latency_s", "()", "at least one batch size")
        for size, seconds in enumerate(self.latency_s, 1):
            if not 0 < seconds < math.inf:
                raise self._error(f"latency_s of a batch of {size}", seconds, "above 0 and finite")
        if (np.diff(latency) < 0).any():
            size = int(np.flatnonzero(np.diff(latency) < 0)[0]) + 2
            raise self._error(
                f"latency_s of a batch of {size}",
                self.latency_s[size - 1],
                f"at least that of {size - 1}, {self.latency_s[size - 2]}",
            )
        if not self.slo_s > 0:
            raise self._error("slo_s", self.slo_s, "above 0")
        if self.energy_j and len(self.energy_j) != len(self.latency_s):
            raise self._error("energy_j", f"{len(self.energy_j)} values", f"{len(self.latency_s)}, or none")
        for size, joules in enumerate(self.energy_j, 1):
            if not 0 <= joules < math.inf:
                raise self._error(f"energy_j of a batch of {size}", joules, "at least 0 and finite")
        for key in ("load_s", "memory_bytes"):
            if not 0 <= getattr(self, key) < math.inf:
                raise self._error(key, getattr(self, key), "at least 0 and finite")

    @classmethod
    def of_law(
        cls,
        name: str,
        law: BatchLatency,
        max_batch: int,
        slo_s: float = math.inf,
        energy_j: tuple[float, ...] = (),
        load_s: float = 0.0,
        memory_bytes: float = 0.0,
    ) -> "ServedModel":
        """With the latency that a law gives for batches of 1 to `max_batch`."""
        if max_batch < 1:
            raise InputError(f"model {name}: max_batch = {max_batch}: must be at least 1")
        latency_s = tuple(law.seconds(np.arange(1, max_batch + 1)).tolist())
        return cls(name, latency_s, slo_s, energy_j, load_s, memory_bytes)

    @property
    def max_batch(self) -> int:
        """The largest batch."""
        return len(self.latency_s)

    def _error(self, what: str, value: object, allowed: str) -> InputError:
        return InputError(f"model {self.name}: {what} = {value}: must be {allowed}")
