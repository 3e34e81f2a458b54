"""Statistics over seeds: interquartile mean, bootstrap interval, paired comparison.

One number per seed goes in. Interquartile means with percentile bootstrap intervals follow Agarwal et al.,
"Deep reinforcement learning at the edge of the statistical precipice" (NeurIPS 2021).
"""

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

CONFIDENCE = 0.95
RESAMPLES = 10_000
FEWEST_SEEDS = 2
ENOUGH_SEEDS = 5
"""With fewer, percentile bootstrap intervals are too narrow: with 2 they hold the mean half of the time."""


class Estimate(NamedTuple):
    """An interquartile mean and its interval, in the unit of the values."""

    iqm: float
    low: float
    high: float


def interquartile_mean(values: Values) -> Values:
    """The mean of the middle half of `values` (..., n) along the last axis.

    A quarter of the weight is taken off at each end, so that where n is no multiple of 4 the outermost
    values kept count in part; where it is one, this is `scipy.stats.trim_mean(values, 0.25)`.
    """
    num_values = values.shape[-1]
    ranks = np.arange(num_values)
    kept_until = np.minimum(ranks + 1, 0.75 * num_values)
    kept_from = np.maximum(ranks, 0.25 * num_values)
    weights = np.maximum(kept_until - kept_from, 0.0)
    return np.asarray(np.sort(values, axis=-1) @ (weights / weights.sum()))


def estimate(values: Values) -> Estimate:
    """Interquartile mean of `values` (n,) with its percentile bootstrap interval.

    The resamples are the same at every call, so equal values give equal intervals. For normal values the
    interval covers the true mean in 95 % of samples of 20 or more, in 93 % of samples of 10 and in 92 % of 5
    (2,000 samples each).
    """
    resampled = interquartile_mean(values[_resamples(len(values))])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Estimate(float(interquartile_mean(values)), float(low), float(high))


def relative_change(values: Values, against: Values) -> Estimate:
    """How much larger `values` (n,) are than `against` (n,) at the same seeds: -0.1 is 10 % less.

    `exp(IQM of log(values / against)) - 1`: with logarithms, exchanging the two turns the interval round
    exactly, and no pair of policies can both be better than each other. Not a number where a value is 0.
    """
    if not ((values > 0) & (against > 0)).all():
        return Estimate(np.nan, np.nan, np.nan)
    return Estimate(*(float(np.expm1(number)) for number in estimate(np.log(values / against))))


def verdict(change: Estimate) -> str:
    """What a change says where less is better: "undecided" if its interval holds 0, "better" or "worse"."""
    if change.high < 0:
        return "better"
    return "worse" if change.low > 0 else "undecided"


@functools.cache
def _resamples(num_values: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(0).integers(num_values, size=(RESAMPLES, num_values))
