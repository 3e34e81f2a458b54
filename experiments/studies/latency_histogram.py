"""Histograms of latencies that add up exactly, in bins fine enough for percentiles.

A bin is a number's exponent and the first MANTISSA_BITS bits of its mantissa, so that bins are a power of two
times equal steps, as in HdrHistogram (G. Tene, hdrhistogram.org): no range to choose, and no logarithm whose
last bit another machine may have otherwise. What stands for a bin is its middle.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MANTISSA_BITS = 10
RELATIVE_ERROR = 2.0 ** -(MANTISSA_BITS + 1)
"""At most, of a percentile: 0.05 %."""

_SHIFT = np.int64(52 - MANTISSA_BITS)

Bins = npt.NDArray[np.int64]


class LatencyHistogram(NamedTuple):
    """How many of the values are in which bin, int64 (B,) both; bins ascend and none is empty."""

    bins: Bins
    counts: Bins

    @classmethod
    def of(cls, values: npt.NDArray[np.float64]) -> "LatencyHistogram":
        """Of values of at least 0, (N,); NaN is not counted."""
        keys = values[~np.isnan(values)].view(np.int64) >> _SHIFT
        if keys.size == 0:
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64))
        lowest = keys.min()
        counts = np.bincount(keys - lowest)
        bins = np.flatnonzero(counts)
        return cls(bins + lowest, counts[bins])

    @classmethod
    def total(cls, parts: Iterable["LatencyHistogram"]) -> "LatencyHistogram":
        """Of the values of all parts together, which may come one after another."""
        total = cls.of(np.zeros(0))
        for part in parts:
            bins, where = np.unique(np.concatenate([total.bins, part.bins]), return_inverse=True)
            counts = np.zeros(bins.size, np.int64)
            np.add.at(counts, where, np.concatenate([total.counts, part.counts]))
            total = cls(bins, counts)
        return total

    @property
    def num_values(self) -> int:
        """How many were counted."""
        return int(self.counts.sum())

    def percentile(self, percent: float) -> float:
        """The smallest value that at least `percent` % of all do not exceed, up to RELATIVE_ERROR.

        NaN of none.
        """
        if self.num_values == 0:
            return np.nan
        rank = max(1, int(np.ceil(percent / 100 * self.num_values)))
        found = self.bins[np.searchsorted(np.cumsum(self.counts), rank)]
        low, high = (np.array([found, found + 1]) << _SHIFT).view(np.float64)
        return float((low + high) / 2)
