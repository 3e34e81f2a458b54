"""What every router network is: raw observation in, one score per replica and a value out."""

from typing import Any

from torch import Tensor

from servegym.agents.networks.action_network import ILLEGAL_LOGIT, ActionNetwork, Inputs
from servegym.agents.networks.normalise import Normalise


class RouterNetwork(ActionNetwork):
    """Scores the replicas of a fleet for one request. Subclasses write `evaluate`."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = Normalise()

    def evaluate(self, request: Tensor, replicas: Tensor, legal: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised inputs (B, 4), (B, R, 32) and legal (B, R) to scores (B, R) and value (B,)."""
        raise NotImplementedError

    def prepare(self, observation: Any) -> Inputs:
        """Normalised inputs."""
        return Inputs(self.normalise(**observation))

    def decide(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised inputs to logits (B, R) and value (B,)."""
        *_, legal = inputs
        scores, value = self.evaluate(*inputs)
        return scores.masked_fill(~legal, ILLEGAL_LOGIT), value

    def forward(self, request: Tensor, replicas: Tensor) -> tuple[Tensor, Tensor]:
        """Raw `request` (B, 4) and `replicas` (B, R, 15), float32, to logits (B, R) and value (B,)."""
        return self.decide(*self.normalise(request, replicas))
