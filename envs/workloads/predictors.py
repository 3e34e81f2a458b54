"""Predict output lengths as well as a predictor of a stated quality would.

Every predictor takes the true lengths (N,) and a generator `rng`, and returns predictions int32 (N,) of at
least 1 token; the same state of `rng` gives the same predictions.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from servegym.costmodels.errors import InputError
from servegym.envs.workloads.workload import MAX_TOKENS

Counts = npt.NDArray[np.int32]

# TRAIL's ten equal bins over 0 to 512 tokens.
TRAIL_EDGES = tuple(51.2 * i for i in range(11))

# Mean absolute errors of TRAIL (remaining length, over all iterations) and of its initial prediction by BERT.
TRAIL_IMPROVEMENT = 33.9 / 46.1


def exact_predictions(output_tokens: Counts, rng: np.random.Generator) -> Counts:
    """The true lengths; draws nothing."""
    return np.array(output_tokens, dtype=np.int32)


def noisy_predictions(output_tokens: Counts, mean_relative_error: float, rng: np.random.Generator) -> Counts:
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


def bucketed_predictions(
    output_tokens: Counts,
    rng: np.random.Generator,
    edges: Sequence[float] = TRAIL_EDGES,
    accuracy: float = 1.0,
) -> Counts:
    """The middle of the bucket a classifier puts each request in, rounded to whole tokens of at least 1.

    Bucket b holds lengths above `edges[b]` and up to `edges[b + 1]`, B buckets for B + 1 ascending edges;
    the outer two also hold what lies beyond. With probability `accuracy` the bucket is the true one, else
    one beside it, either side equally likely (at the ends the only one). Classifiers over length buckets:
    Jin et al., S3, NeurIPS 2023; Jain et al., Intelligent Router for LLM Workloads, arXiv 2408.13510.
    The default are the ten equal buckets over 0 to 512 of TRAIL (arXiv 2410.01035).
    Raises `InputError` for edges that do not ascend and an accuracy outside [0, 1].
    """
    bounds = np.asarray(edges, dtype=np.float64)
    if bounds.ndim != 1 or len(bounds) < 2 or not (np.diff(bounds) > 0).all() or bounds[0] < 0:
        raise InputError(f"bucket edges are {list(edges)}, allowed: at least two, ascending from 0 or more")
    if not bounds[-1] <= MAX_TOKENS:
        raise InputError(f"the last bucket edge is {bounds[-1]}, allowed: at most {MAX_TOKENS}")
    if not 0 <= accuracy <= 1:
        raise InputError(f"bucket accuracy is {accuracy}, allowed: from 0 to 1")
    last = len(bounds) - 2
    bucket = np.clip(np.searchsorted(bounds, output_tokens, side="left") - 1, 0, last)
    uniform, upwards = rng.random(len(bucket)), rng.random(len(bucket)) < 0.5
    beside = np.where((bucket == 0) | (upwards & (bucket < last)), bucket + 1, bucket - 1)
    bucket = np.where(uniform < accuracy, bucket, np.clip(beside, 0, last))
    middle = (bounds[bucket] + bounds[bucket + 1]) / 2
    return np.maximum(np.rint(middle), 1).astype(np.int32)


def ranked_predictions(output_tokens: Counts, kendall_tau: float, rng: np.random.Generator) -> Counts:
    """The true lengths dealt out anew, so that only their order says something: as good as Kendall's tau-b.

    Order by `rho z + sqrt(1 - rho^2) noise`, where z are the normal scores of the true lengths (equal
    lengths, equal scores), and give the k-th of that order the k-th smallest length. For a Gaussian copula
    without ties, tau = 2 / pi asin(rho) (Kruskal 1958). Because of ties and chance, rho is then bisected,
    with the same noise, until tau-b of truth and prediction is within 0.005 of `kendall_tau`: what a
    ranking predictor is published with (Fu et al., Learning to Rank, NeurIPS 2024). Fewer than some hundred
    requests may not allow it and get the nearest found. Raises `InputError` unless 0 <= tau <= 1.
    """
    from scipy import stats  # takes as long to import as all else here

    if not 0 <= kendall_tau <= 1:
        raise InputError(f"Kendall's tau is {kendall_tau}, allowed: from 0 to 1")
    truth = np.array(output_tokens, dtype=np.int32)
    if kendall_tau == 1 or len(np.unique(truth)) < 2:
        return truth
    scores = stats.norm.ppf((stats.rankdata(truth) - 0.5) / len(truth))
    noise = rng.standard_normal(len(truth))
    ascending = np.sort(truth)

    def predict(rho: float) -> Counts:
        dealt = np.empty_like(truth)
        dealt[np.argsort(rho * scores + math.sqrt(1 - rho**2) * noise, kind="stable")] = ascending
        return dealt

    low, high = -1.0, 1.0
    rho = math.sin(math.pi * kendall_tau / 2)
    best, best_error = truth, math.inf
    for _ in range(40):
        predicted = predict(rho)
        error = float(stats.kendalltau(truth, predicted).statistic) - kendall_tau
        if abs(error) < best_error:
            best, best_error = predicted, abs(error)
        if best_error < 0.005:
            break
        low, high = (low, rho) if error > 0 else (rho, high)
        rho = (low + high) / 2
    return best


def refined_remaining(
    output_tokens: Any, generated_tokens: Any, predicted_output_tokens: Any, improvement: float
) -> Any:
    """Predicted remaining tokens of a running request, at least 1, better the further it has come.

    Arrays or scalars; plain arithmetic, so that compiled code can compile it too. The model is ours: the
    prediction made on arrival is off by `predicted - output`, every token adds an equally good observation,
    and averaging them (Bayesian smoothing over tokens: TRAIL, arXiv 2410.01035, ICLR 2025) makes
    the standard error fall as 1 / sqrt(1 + c f), f the share of the output generated:

        remaining = output - generated + (predicted - output) / sqrt(1 + c generated / output)

    `improvement` is the mean of that factor over a request's iterations, 2 / (1 + sqrt(1 + c)), so
    c = (2 / improvement - 1)^2 - 1: 1 keeps the first error, 0.5 is c = 8. TRAIL publishes mean absolute
    errors of 33.9 tokens for its remaining and 46.1 for BERT's initial predictions: `TRAIL_IMPROVEMENT`,
    which takes the two as errors of one predictor at two ages. No range is checked: 0 < improvement <= 1.
    """
    gain = (2.0 / improvement - 1.0) ** 2 - 1.0
    error = (predicted_output_tokens - output_tokens) / np.sqrt(1.0 + gain * generated_tokens / output_tokens)
    return np.maximum(output_tokens - generated_tokens + error, 1.0)


PREDICTORS: dict[str, Callable[..., Counts]] = {
    "exact": exact_predictions,
    "noisy": noisy_predictions,
    "bucketed": bucketed_predictions,
    "ranked": ranked_predictions,
}
"""By name; called as `PREDICTORS[name](output_tokens, rng=rng, **parameters)`."""
