"""The law of a prefill under sequence parallelism: `T_sp = A + B sum(l) + C sum(l^2)` of LoongServe.

Bingyang Wu et al., LoongServe, SOSP 2024: the prefill of requests with `l` tokens each takes T_sp seconds
on `sp` instances. One set of coefficients for each pair of sequence and tensor parallelism.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError

TIME_EXPONENT = 0.1
"""Rows are multiplied by t**0.1 after division by t: nearly the relative error, long prefills a bit more."""


@dataclass(frozen=True)
class PrefillLaw:
    """Seconds of a prefill: `constant_s + per_token_s sum(l) + per_token_squared_s sum(l^2)`."""

    constant_s: float
    per_token_s: float
    per_token_squared_s: float

    def seconds(self, lengths: Sequence[int]) -> float:
        """Of one prefill of requests with these lengths (tokens). InputError for none, or one below 1."""
        return float(self._coefficients() @ _sums([lengths])[0])

    def batch_seconds(self, batches: Sequence[Sequence[int]]) -> npt.NDArray[np.float64]:
        """(N,) seconds of N prefills."""
        return np.asarray(_sums(batches) @ self._coefficients())

    def _coefficients(self) -> npt.NDArray[np.float64]:
        return np.array([self.constant_s, self.per_token_s, self.per_token_squared_s])

    @classmethod
    def fit(
        cls,
        batches: Sequence[Sequence[int]],
        seconds: npt.ArrayLike,
        *,
        time_exponent: float = TIME_EXPONENT,
    ) -> "PrefillLaw":
        """Weighted least squares over N prefills: every row is divided by t and multiplied by t**exponent.

        Times enter in milliseconds, as in LoongServe's artifact; the unit scales all weights alike. No
        coefficient gets negative (ours: a longer prompt never takes less).
        InputError where fewer than three prefills, or prefills too much alike, leave a coefficient open.
        """
        from scipy.optimize import nnls  # slow to import, and only fitting needs it

        sums, times_ms = _sums(batches), 1e3 * np.asarray(seconds, np.float64)
        if times_ms.shape != (len(sums),):
            raise InputError(f"T_sp: {len(sums)} prefills and times of shape {times_ms.shape}")
        if not (np.isfinite(times_ms) & (times_ms > 0)).all():
            raise InputError("T_sp: a time is not finite and above 0")
        weights = times_ms ** (time_exponent - 1)
        scale = sums.max(axis=0)  # lengths squared reach 1e11: without it the fit loses half its digits
        rows = sums / scale * weights[:, None]
        if np.linalg.matrix_rank(rows) < 3:
            raise InputError(
                f"T_sp: {len(sums)} prefills leave a coefficient open, must differ in sum(l) and sum(l^2)"
            )
        solution, _ = nnls(rows, times_ms * weights)
        return cls(*(solution / scale / 1e3).tolist())


def _sums(batches: Sequence[Sequence[int]]) -> npt.NDArray[np.float64]:
    """(N, 3): 1, sum(l), sum(l^2) of each batch."""
    rows = []
    for lengths in batches:
        tokens = np.asarray(lengths, np.float64)
        if tokens.ndim != 1 or not tokens.size or not (tokens >= 1).all():
            raise InputError(f"T_sp: lengths {list(lengths)}, must be one or more, each at least 1 token")
        rows.append((1.0, tokens.sum(), (tokens**2).sum()))
    return np.array(rows).reshape(-1, 3)
