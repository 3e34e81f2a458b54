"""The distribution over actions that logits mean: just what PPO asks of it, in few operations.

SB3's `Categorical` computes the same numbers (to the bit, drawn actions included), checking its arguments as
it goes; for a batch of decisions that costs as much as a small network.
"""

import torch
from torch import Tensor


class Choices:
    """Of logits (B, A), one independent choice among A actions in each row."""

    def __init__(self, logits: Tensor) -> None:
        self.log_probs = logits - logits.logsumexp(dim=1, keepdim=True)

    def draw(self) -> Tensor:
        """int64 (B,): an action at random, as the winner of a race of exponential clocks (Gumbel's trick)."""
        probs = torch.softmax(self.log_probs, dim=1)
        return (probs / torch.empty_like(probs).exponential_()).argmax(dim=1)

    def likeliest(self) -> Tensor:
        """int64 (B,)."""
        return self.log_probs.argmax(dim=1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Of given actions (B,), (B,)."""
        return self.log_probs.gather(1, actions.long().unsqueeze(1)).squeeze(1)

    def entropy(self) -> Tensor:
        """In nats, (B,)."""
        return -(self.log_probs * torch.softmax(self.log_probs, dim=1)).sum(dim=1)
