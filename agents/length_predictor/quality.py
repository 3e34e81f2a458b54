"""How good predicted lengths are."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Quality(NamedTuple):
    """Of predictions against the truth."""

    kendall_tau: float  # tau-b; 0 where all predictions are equal
    mae_tokens: float
    mean_relative_error: float  # mean of |predicted - true| / true


def quality(output_tokens: npt.ArrayLike, predicted: npt.ArrayLike) -> Quality:
    """Of predictions (N,) for true lengths (N,), tokens."""
    from scipy.stats import kendalltau

    truth, guess = np.asarray(output_tokens, np.float64), np.asarray(predicted, np.float64)
    tau = float(kendalltau(truth, guess).statistic)
    error = np.abs(guess - truth)
    return Quality(0.0 if math.isnan(tau) else tau, float(error.mean()), float((error / truth).mean()))
