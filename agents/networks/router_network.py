"""What every router network is: raw observation in, one score per replica and a value out."""

from torch import Tensor

from servegym.agents.networks.action_network import ILLEGAL_LOGIT, ActionNetwork
from servegym.agents.networks.normalise import Normalise


class RouterNetwork(ActionNetwork):
    """Scores the replicas of a fleet for one request. Subclasses write `evaluate`."""

    def __init__(self) -> None:
        super().__init__()
        self.normalise = Normalise()

    def evaluate(self, request: Tensor, replicas: Tensor, legal: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised inputs (B, 4), (B, R, 28) and legal (B, R) to scores (B, R) and value (B,)."""
        raise NotImplementedError

    def forward(self, request: Tensor, replicas: Tensor) -> tuple[Tensor, Tensor]:
        """Raw `request` (B, 4) and `replicas` (B, R, 13), float32, to logits (B, R) and value (B,)."""
        request_inputs, replica_inputs, legal = self.normalise(request, replicas)
        scores, value = self.evaluate(request_inputs, replica_inputs, legal)
        return scores.masked_fill(~legal, ILLEGAL_LOGIT), value
