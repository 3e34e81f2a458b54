"""Service-level objectives that requests carry."""

import math
from dataclasses import dataclass

from servegym.costmodels.errors import InputError


@dataclass(frozen=True)
class SloClass:
    """What the requests of one class were promised. Infinity promises nothing.

    `ttft_s`: seconds from arrival to the first token. `tpot_s`: mean seconds per output token after the
    first. `weight`: what a request of this class that keeps both counts, at least 0.
    Raises `InputError` for a value out of range.
    """

    name: str
    ttft_s: float
    tpot_s: float
    weight: float = 1.0

    def __post_init__(self) -> None:
        for what in ("ttft_s", "tpot_s"):
            if not getattr(self, what) > 0:
                raise InputError(
                    f"SLO class {self.name!r}: {what} is {getattr(self, what)}, allowed: above 0 (inf: none)"
                )
        if not 0 <= self.weight < math.inf:
            raise InputError(f"SLO class {self.name!r}: weight is {self.weight}, allowed: finite, at least 0")
