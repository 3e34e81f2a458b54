"""From scores of any scale to lengths, by a map that keeps their order."""

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

Floats = npt.NDArray[np.float64]

MOST_BINS = 32
FEWEST_IN_BIN = 20


def calibrate(scores: Floats, log_lengths: Floats) -> tuple[Floats, Floats]:
    """Knots and log lengths (K,), ascending, to interpolate between; from scores and log lengths (N,).

    Medians of the log length in bins of equally many requests by score, made monotone by isotonic
    regression (pool adjacent violators: Barlow et al. 1972). A knot is the mean score of a pool, so between
    knots different scores keep different lengths. Bins, at most 32 of at least 20 requests, are ours.
    """
    by_score = np.argsort(scores, kind="stable")
    num_bins = int(np.clip(len(scores) // FEWEST_IN_BIN, 1, MOST_BINS))
    bins = np.array_split(by_score, num_bins)
    sizes = np.array([len(each) for each in bins])
    medians = np.array([np.median(log_lengths[each]) for each in bins])
    centres = np.array([scores[each].mean() for each in bins])
    pools = isotonic_regression(medians, weights=sizes)
    first = pools.blocks[:-1]
    knots = np.add.reduceat(centres * sizes, first) / np.add.reduceat(sizes, first)
    return knots, pools.x[first]
