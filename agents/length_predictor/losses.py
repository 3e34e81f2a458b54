"""What a length predictor is trained to: lengths, or their order.

Each takes scores and log lengths, float32 (L, n), of L lists of n requests, and returns the mean loss.
"""

from collections.abc import Callable

import torch
from torch import Tensor

BUCKET_TOKENS = 10.0


def l1(scores: Tensor, log_lengths: Tensor) -> Tensor:
    """Mean absolute error of the logarithm: the score becomes the median log length."""
    return (scores - log_lengths).abs().mean()


def mse(scores: Tensor, log_lengths: Tensor) -> Tensor:
    """Mean squared error of the logarithm: the score becomes the mean log length."""
    return ((scores - log_lengths) ** 2).mean()


def listmle(scores: Tensor, log_lengths: Tensor) -> Tensor:
    """Minus the log likelihood of each list's true order, over its length (ListMLE: Xia et al., ICML 2008).

    Plackett and Luce: of the requests left, the next is i with probability softmax(-score)_i. Lengths are
    compared in buckets of 10 tokens (Fu et al., Efficient LLM Scheduling by Learning to Rank, arXiv
    2408.15792); what falls together keeps the order of the list, so lists are to be shuffled. Shortest
    first is our reading: it is what a scheduler needs, and for exponential lengths the model is then
    exact, with the log mean length as the score.
    """
    order = torch.argsort(torch.div(log_lengths.exp(), BUCKET_TOKENS).floor(), dim=1, stable=True)
    strength = -scores.gather(1, order)
    remaining = torch.logcumsumexp(strength.flip(1), dim=1).flip(1)
    return (remaining - strength).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": l1, "mse": mse, "listmle": listmle}
