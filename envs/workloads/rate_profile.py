"""How the mean rate of requests goes through a day, or any other period."""

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RateProfile:
    """`factors` (K,) of the mean rate in K equal intervals of a period; constant within each, mean 1.

    They are given in any unit, at least 0 and not all 0, else InputError. `provenance`: where they are from.
    """

    name: str
    factors: Floats
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        factors = np.array(self.factors, np.float64)
        if factors.ndim != 1 or not (np.isfinite(factors) & (factors >= 0)).all() or not factors.sum() > 0:
            raise InputError(
                f"rate profile {self.name!r}: factors must be finite, at least 0, and one of them above 0"
            )
        object.__setattr__(self, "factors", factors / factors.mean())

    def warp(self, arrival_s: Floats, period_s: float) -> Floats:
        """Arrivals of an even rate, moved so that their mean rate follows the profile again and again.

        Time changes by the inverse of the integral of the factors, which makes a Poisson process an
        inhomogeneous one and keeps how bursty any other is (Cinlar, Introduction to Stochastic Processes,
        1975, section 4.7). As many requests come in each whole period as before.
        """
        edges = np.arange(len(self.factors) + 1) / len(self.factors)
        reached = np.concatenate([[0.0], np.cumsum(self.factors)])
        periods, within = np.divmod(arrival_s / period_s, 1.0)
        return np.asarray((periods + np.interp(within, reached / reached[-1], edges)) * period_s)


def load_profile(name: str) -> RateProfile:
    """The profile `profiles/<name>.json`, as `servegen_m_large_day`; InputError lists those there are."""
    folder = resources.files("servegym.envs.workloads") / "profiles"
    known = sorted(
        file.name.removesuffix(".json") for file in folder.iterdir() if file.name.endswith(".json")
    )
    if name not in known:
        raise InputError(f"rate profile is {name!r}, allowed: {', '.join(known)}")
    figures = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return RateProfile(name, np.array(figures["factors"]), figures["provenance"])
