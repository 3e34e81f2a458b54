"""How many requests of a Poisson process arrive while a batch runs."""

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

NEGLIGIBLE = 1e-16


def arrivals(mean: float) -> tuple[Counts, Floats]:
    """Counts (n,) and their probabilities (n,), which sum to 1; those below NEGLIGIBLE are left out."""
    counts = np.arange(int(mean + 12 * np.sqrt(mean)) + 40)
    probabilities = np.exp(counts * np.log(mean) - mean - gammaln(counts + 1))
    kept = probabilities > NEGLIGIBLE
    return counts[kept], probabilities[kept] / probabilities[kept].sum()
