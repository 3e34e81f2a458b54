"""What every router network is: raw observation in, one score per replica and a value out."""

from typing import Any

import torch
from torch import Tensor, nn

from servegym.agents.networks.action_network import ILLEGAL_LOGIT, ActionNetwork, Inputs
from servegym.agents.networks.normalise import Normalise

START = torch.tensor([1.0, 0.0])
"""Weights of the priors in an untrained network: marginal latency, or TTFT, alone."""


class RouterNetwork(ActionNetwork):
    """Scores the replicas of a fleet for one request. Subclasses write `evaluate`.

    To their scores is added what the forecasts say, by weights that are learnt and begin at 1 with marginal
    and at 0 with crowded latency: an untrained network already routes by the least TTFT or marginal latency
    foretold, and learns where that is wrong. How far it goes from there is `departure`, 1 unless a line
    search asks for others, () or (B, 1).
    """

    score: nn.Linear

    def __init__(self) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.departure = torch.ones(())
        self.prior_weights = nn.Parameter(START.clone())

    def evaluate(self, request: Tensor, replicas: Tensor, legal: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, R) and value (B,) of `RouterInputs`: request, replicas, and legal, bool (B, R)."""
        raise NotImplementedError

    def prepare(self, observation: Any) -> Inputs:
        """Normalised inputs."""
        return Inputs(self.normalise(**observation))

    def decide(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised inputs to logits (B, R) and value (B,)."""
        request, replicas, priors, legal = inputs
        scores, value = self.evaluate(request, replicas, legal)
        untrained = priors[..., 0]
        scores = untrained + self.departure * (scores + priors @ self.prior_weights - untrained)
        return scores.masked_fill(~legal, ILLEGAL_LOGIT), value

    def keep(self, share: float) -> None:
        """Makes the weights those of a network that departs so far, a share, from where it began."""
        with torch.no_grad():
            self.prior_weights.copy_(START + share * (self.prior_weights - START))
            self.score.weight.mul_(share)
            self.score.bias.mul_(share)

    def forward(self, request: Tensor, replicas: Tensor, setting: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, R) and value (B,) of raw `request` (B, 4), `replicas` (B, R, .) and `setting` (B, 9)."""
        return self.decide(*self.normalise(request, replicas, setting))
