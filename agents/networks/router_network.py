"""What every router network is: raw observation in, one score per replica and a value out."""

from torch import Tensor, nn

from servegym.agents.networks.normalise import Normalise

ILLEGAL_LOGIT = -1e9
"""Score of a replica that may not be chosen: finite, and its probability is exactly 0 in float32."""


class RouterNetwork(nn.Module):
    """Scores the replicas of a fleet for one request. Subclasses write `evaluate`.

    `num_replicas` is the only fleet size the network takes, None where it takes any.
    """

    num_replicas: int | None = None

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


def linear(num_inputs: int, num_outputs: int, gain: float = 2.0**0.5, bias: bool = True) -> nn.Linear:
    """A linear layer with orthogonal weights and zero bias, the usual start for PPO.

    The default gain keeps the variance through a ReLU; a small one makes the first policy near uniform.
    """
    layer = nn.Linear(num_inputs, num_outputs, bias=bias)
    nn.init.orthogonal_(layer.weight, gain)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
