"""Columns of a workload: arrays with one entry per request, declared with their type and range."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError


@dataclass(frozen=True)
class Column:
    """The NumPy type of a column and the values it may hold, both ends included."""

    dtype: type[np.generic]
    least: float
    most: float

    def read(self, where: str, values: npt.ArrayLike, length: int | None = None) -> npt.NDArray[Any]:
        """A checked copy of `values` in this type; `InputError` starts with `where`, the column's place.

        Refused: another number of axes than 1, another length than `length`, floats for integers, and
        values out of range.
        """
        given = np.asarray(values)
        if given.ndim != 1 or (length is not None and len(given) != length):
            allowed = "one axis" if length is None else f"({length},)"
            raise InputError(f"{where} has shape {given.shape}, allowed: {allowed}")
        integer = np.issubdtype(self.dtype, np.integer)
        if given.size and given.dtype.kind not in ("iu" if integer else "iuf"):
            kinds = "integers" if integer else "numbers"
            raise InputError(f"{where} is of type {given.dtype}, allowed: {kinds}")
        if given.size and not (given.min() >= self.least and given.max() <= self.most):  # NaN is neither
            require(where, given, (given >= self.least) & (given <= self.most), self.allowed)
        return np.array(given, dtype=self.dtype)

    @property
    def allowed(self) -> str:
        """The range in words."""
        if np.issubdtype(self.dtype, np.integer):
            return f"integers from {self.least} to {self.most}"
        least = "above 0" if 0 < self.least < 1e-300 else f"at least {self.least:g}"
        return least if self.most == np.inf else f"finite, {least}"


def require(where: str, values: npt.NDArray[Any], legal: npt.NDArray[np.bool_], allowed: str) -> None:
    """`InputError` for the first entry of `values` that is not legal: index, value, what is allowed."""
    if not legal.all():
        i = int(np.argmin(legal))
        raise InputError(f"{where}[{i}] is {values[i]}, allowed: {allowed}")


def integers(dtype: type[np.integer[Any]], least: int | None = None) -> Column:
    """Integers from `least` (default: the type's own) to the largest of the type."""
    limits = np.iinfo(dtype)
    return Column(dtype, limits.min if least is None else least, limits.max)


NON_NEGATIVE = Column(np.float64, 0.0, np.finfo(np.float64).max)
POSITIVE_OR_INFINITE = Column(np.float64, np.nextafter(0.0, 1.0), np.inf)
