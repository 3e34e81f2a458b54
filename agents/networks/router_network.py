"""What every router network is: raw observation in, one score per replica and a value out."""

from typing import Any

import torch
from torch import Tensor, nn

from servegym.agents.networks.action_network import ILLEGAL_LOGIT, ActionNetwork, Inputs
from servegym.agents.networks.normalise import Normalise


class RouterNetwork(ActionNetwork):
    """Scores the replicas of a fleet for one request. Subclasses write `evaluate`.

    To their scores is added what the forecasts say, by weights that are learnt and begin at 1 with marginal
    and at 0 with crowded latency: an untrained network already routes by the least TTFT or marginal latency
    foretold, and learns where that is wrong. How far it goes from there, where latency and where TTFT is the
    objective, is `departure`, (2,) or (B, 2): all the way, unless a line search found that less is better.
    """

    departure: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.normalise = Normalise()
        self.register_buffer("departure", torch.ones(2))
        self.prior_weights = nn.Parameter(torch.tensor([1.0, 0.0]))

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
        untrained, ttft_share = priors[..., 0], request[:, -1:]
        departure = (1.0 - ttft_share) * self.departure[..., :1] + ttft_share * self.departure[..., 1:]
        scores = untrained + departure * (scores + priors @ self.prior_weights - untrained)
        return scores.masked_fill(~legal, ILLEGAL_LOGIT), value

    def forward(self, request: Tensor, replicas: Tensor, setting: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, R) and value (B,) of raw `request` (B, 4), `replicas` (B, R, .) and `setting` (B, 9)."""
        return self.decide(*self.normalise(request, replicas, setting))
