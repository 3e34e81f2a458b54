"""Points on which tables of times are kept."""

import math

import numpy as np

from servegym.costmodels.iterations.cost import Floats


def geometric_knots(last: int, ratio: float) -> Floats:
    """Whole numbers from 1 to `last`, at most about `ratio` (or 1) apart."""
    count = 1 + math.ceil(math.log(last) / math.log(ratio))
    return np.unique(np.rint(np.geomspace(1, last, max(count, 1))))
