"""How requests spread over models: the share of each."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError

Floats = npt.NDArray[np.float64]


def zipf_shares(num_models: int, exponent: float) -> Floats:
    """(num_models,) shares that fall as 1 / rank^exponent and add up to 1; exponent 0: all equal."""
    if num_models < 1:
        raise InputError(f"number of models is {num_models}, allowed: at least 1")
    if not 0 <= exponent < math.inf:
        raise InputError(f"exponent of the popularity is {exponent}, allowed: finite, at least 0")
    weights = np.arange(1, num_models + 1) ** -float(exponent)
    return np.asarray(weights / weights.sum())


def read_shares(shares: Sequence[float] | Floats) -> Floats:
    """Shares as given, checked: at least 0, adding up to 1."""
    given = np.array(shares, np.float64)
    if given.ndim != 1 or not (given >= 0).all() or not math.isclose(given.sum(), 1.0, abs_tol=1e-9):
        raise InputError(f"shares of the models are {list(shares)}, allowed: at least 0, adding up to 1")
    return given
