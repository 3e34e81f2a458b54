"""Predict output lengths as well as a predictor of a stated error would."""

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.workload import MAX_TOKENS


def noisy_predictions(
    output_tokens: npt.NDArray[np.int32], mean_relative_error: float, rng: np.random.Generator
) -> npt.NDArray[np.int32]:
    """Predicted output lengths (N,) in tokens, at least 1, off by `mean_relative_error` in the mean.

    The prediction is `o * X` with X log-normal of mean 1, so it is unbiased, and E|X - 1| is the given
    error e. For ln X ~ N(-sigma^2 / 2, sigma^2), E|X - 1| = 2 (2 Phi(sigma / 2) - 1) (twice the value
    of an at-the-money call, Black and Scholes 1973), hence sigma = 2 Phi^-1((2 + e) / 4). The statement
    holds before rounding to whole tokens of at least 1; 0 gives `output_tokens` themselves.
    Raises `InputError` unless 0 <= e < 2, the limit for a positive X of mean 1.
    """
    if not 0 <= mean_relative_error < 2:
        raise InputError(f"mean relative error is {mean_relative_error}, allowed: at least 0 and below 2")
    sigma = 2 * NormalDist().inv_cdf((2 + mean_relative_error) / 4)
    factor = np.exp(sigma * rng.standard_normal(len(output_tokens)) - sigma**2 / 2)
    return np.clip(np.rint(output_tokens * factor), 1, MAX_TOKENS).astype(np.int32)
