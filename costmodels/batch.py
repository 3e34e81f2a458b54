"""Clocks of servers that run one batch of equal requests at a time: seconds by batch size."""

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError


@dataclass(frozen=True)
class LinearBatchLatency:
    """`l(b) = alpha b + beta` seconds: the law of Clockwork, Nexus, Symphony and their kin."""

    alpha_s: float
    """Seconds that each request of a batch adds."""
    beta_s: float
    """Seconds of a batch whatever its size."""

    def __post_init__(self) -> None:
        for name in ("alpha_s", "beta_s"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise InputError(f"l(b): {name} is {value}, must be at least 0 and finite")
        if self.alpha_s + self.beta_s == 0:
            raise InputError("l(b): alpha_s and beta_s are both 0, a batch must take time")

    def seconds(self, batch: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Seconds of batches of `batch` requests, any shape. InputError below 1 request."""
        sizes = np.asarray(batch, np.float64)
        if not (sizes >= 1).all():
            raise InputError(f"l(b): a batch has {sizes.min():g} requests, must have at least 1")
        return np.asarray(self.alpha_s * sizes + self.beta_s)

    @classmethod
    def fit(cls, batch: npt.ArrayLike, seconds: npt.ArrayLike) -> "LinearBatchLatency":
        """Least squares on the relative error, with both coefficients at 0 or above.

        batch, seconds: (N,) with at least two different sizes, else InputError.
        """
        from scipy.optimize import nnls  # slow to import, and only fitting needs it

        sizes, times = _check_points(batch, seconds)
        design = np.stack([sizes, np.ones_like(sizes)], axis=1) / times[:, None]
        (alpha_s, beta_s), _ = nnls(design, np.ones_like(times))
        return cls(float(alpha_s), float(beta_s))


@dataclass(frozen=True)
class TabulatedBatchLatency:
    """Measured batch sizes, strictly increasing, and their seconds; linear between, refused beyond."""

    batch: tuple[int, ...]
    latency_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.batch) != len(self.latency_s) or len(self.batch) == 0:
            raise InputError(
                f"batch latencies: {len(self.batch)} sizes and {len(self.latency_s)} times, must be as many"
            )
        if self.batch[0] < 1 or np.any(np.diff(self.batch) <= 0):
            raise InputError(f"batch latencies: sizes {self.batch} must increase from at least 1")
        if not all(0 < time < float("inf") for time in self.latency_s):
            raise InputError(f"batch latencies: times {self.latency_s} must be finite and above 0")

    def seconds(self, batch: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Seconds of batches of `batch` requests, any shape. InputError outside the measured sizes."""
        sizes = np.asarray(batch, np.float64)
        outside = sizes[(sizes < self.batch[0]) | (sizes > self.batch[-1])]
        if outside.size:
            raise InputError(
                f"batch latencies: a batch of {outside.flat[0]:g}, "
                f"measured are {self.batch[0]} to {self.batch[-1]}"
            )
        return np.asarray(np.interp(sizes, self.batch, self.latency_s))


@dataclass(frozen=True)
class DnnProfile:
    """One network on one GPU under one runtime."""

    model: str
    gpu: str
    """A100, A30, A40, T4 or V100."""
    variant: str
    """Precision, sequence length, runtime and machine, as the source names them."""
    measured: TabulatedBatchLatency
    linear: LinearBatchLatency
    """Fitted to `measured`."""
    linear_error: float
    """Its mean absolute relative error there."""


def load_dnn_profiles(gpu: str | None = None) -> tuple[DnnProfile, ...]:
    """The committed profiles, all or those of one GPU; made by `servegym.experiments.fits.fit_batch_latency`.

    InputError, listing the known ones, for a GPU without profiles.
    """
    path = resources.files("servegym.costmodels") / "profiles" / "dnn_batch_latency.json"
    profiles = tuple(_profile(entry) for entry in json.loads(path.read_text())["profiles"])
    known = sorted({profile.gpu for profile in profiles})
    if gpu is not None and gpu not in known:
        raise InputError(f"no batch latencies on GPU {gpu!r}, known: {', '.join(known)}")
    return tuple(profile for profile in profiles if gpu in (None, profile.gpu))


def _profile(entry: dict[str, Any]) -> DnnProfile:
    return DnnProfile(
        entry["model"],
        entry["gpu"],
        entry["variant"],
        TabulatedBatchLatency(tuple(entry["batch"]), tuple(entry["latency_s"])),
        LinearBatchLatency(entry["alpha_s"], entry["beta_s"]),
        entry["linear_error"],
    )


def _check_points(
    batch: npt.ArrayLike, seconds: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    sizes, times = np.asarray(batch, np.float64), np.asarray(seconds, np.float64)
    if sizes.shape != times.shape or sizes.ndim != 1:
        raise InputError(f"l(b): batch has shape {sizes.shape}, seconds {times.shape}, must both be (N,)")
    if len(np.unique(sizes)) < 2 or not (sizes >= 1).all():
        raise InputError(f"l(b): batch sizes {np.unique(sizes)}, must be two or more, each at least 1")
    if not (np.isfinite(times) & (times > 0)).all():
        raise InputError("l(b): a time is not finite and above 0")
    return sizes, times
