"""A workload of batched inference: when requests come, and of which model."""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.columns import NON_NEGATIVE, integers, require

_MODEL = integers(np.int32, 0)


@dataclass(frozen=True, eq=False)
class BatchWorkload:
    """N requests in order of arrival, each a single inference; N = 0 is allowed.

    Columns are copied, converted and checked on construction: InputError for unequal lengths, and for values
    out of the ranges below.
    """

    name: str
    arrival_s: Annotated[npt.NDArray[np.float64], NON_NEGATIVE]  # (N,) seconds, ascending
    model: Annotated[npt.NDArray[np.int32], _MODEL]  # (N,) number of the model asked for

    def __post_init__(self) -> None:
        at_arrivals, at_models = (f"workload {self.name!r}: {name}" for name in ("arrival_s", "model"))
        arrival_s = NON_NEGATIVE.read(at_arrivals, self.arrival_s)
        require(at_arrivals, arrival_s, np.diff(arrival_s, prepend=0.0) >= 0, "ascending times")
        object.__setattr__(self, "arrival_s", arrival_s)
        object.__setattr__(self, "model", _MODEL.read(at_models, self.model, len(arrival_s)))

    @property
    def num_requests(self) -> int:
        """N."""
        return len(self.arrival_s)

    @property
    def duration_s(self) -> float:
        """Seconds from the first to the last arrival; 0 with fewer than two requests."""
        return float(self.arrival_s[-1] - self.arrival_s[0]) if self.num_requests else 0.0

    @property
    def rate_rps(self) -> float:
        """Requests per second: interarrivals over `duration_s`; NaN where the duration is 0."""
        return (self.num_requests - 1) / self.duration_s if self.duration_s > 0 else float("nan")

    def scale_rate(self, factor: float) -> "BatchWorkload":
        """The same requests at `factor` times the rate: all arrival times divided by `factor`."""
        if not 0 < factor < np.inf:
            raise InputError(f"rate factor is {factor}, allowed: finite, above 0")
        return replace(self, arrival_s=self.arrival_s / factor)
