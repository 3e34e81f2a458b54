"""Improper learning: a policy that mixes published routers (Zaki et al., arXiv 2105.00210 and 2207.09090).

With the routers m, each of which sends a request to one replica a_m(s), the mixture is

    pi(a | s) = sum of the weights w_m of the routers with a_m(s) = a,      w = softmax(theta)

and `theta` is learnt by the gradient of the policy. In the paper weights do not depend on the state; that
they may, by a gate, is our extension. A trained mixture acts by the largest pi(a | s), a weighted vote (ours;
the paper's draws).
"""

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from servegym.agents.heuristics.advice import Advice
from servegym.agents.networks.action_network import ILLEGAL_LOGIT, ActionNetwork, Inputs, linear
from servegym.agents.networks.normalise import REPLICA_INPUTS, REQUEST_INPUTS, Normalise

ATOMIC = (
    "jsq",
    "least_outstanding_tokens",
    "lowest_kv_use",
    "max_capacity",
    "predicted_ttft",
    "marginal_latency",
)
"""The routers that are mixed (our choice): those that choose by the rows of the replicas alone."""


class RouterMixture(ActionNetwork):
    """Logarithms of pi(a | s) as logits, and a value from the mean and the largest of all replicas' inputs.

    gated: whether the weights depend on the state. It fits any number of replicas. `hidden` and `layers` are
    the width and the number of the hidden layers of the value, and of the gate.
    """

    def __init__(self, hidden: int = 32, layers: int = 1, gated: bool = False) -> None:
        super().__init__()
        self.advice = Advice(ATOMIC)
        self.normalise = Normalise()
        self.theta = nn.Parameter(torch.zeros(len(ATOMIC)))
        self.value = _layers(hidden, layers, 1, gain=1.0)
        self.gate = _layers(hidden, layers, len(ATOMIC), gain=0.01) if gated else None

    def prepare(self, observation: Any) -> Inputs:
        """State (B, ..), the routers' choices (B, routers), and legal (B, R)."""
        request, replicas, _, legal = self.normalise(**observation)
        count = legal.sum(dim=1, keepdim=True).clamp(min=1)
        state = torch.cat([request, replicas.sum(dim=1) / count, replicas.amax(dim=1)], dim=1)
        choices = self.advice({key: array.numpy() for key, array in observation.items()})
        return Inputs((state, torch.from_numpy(choices), legal))

    def decide(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, R) and values (B,) of what `prepare` gave."""
        state, choices, legal = inputs
        scores = self.theta.expand(len(state), -1)
        if self.gate is not None:
            scores = scores + self.gate(state)
        weights = scores.softmax(dim=1)
        shares = torch.zeros(legal.shape).scatter_add(1, choices, weights)
        logits = torch.where(shares > 0, shares.clamp(min=1e-8).log(), ILLEGAL_LOGIT)
        return logits, self.value(state).squeeze(-1)

    def forward(self, request: Tensor, replicas: Tensor, setting: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, R) and values (B,) of raw `request`, `replicas` and `setting`."""
        return self.decide(*self.prepare({"request": request, "replicas": replicas, "setting": setting}))

    def weights(self) -> dict[str, float]:
        """Of each router, where they do not depend on the state."""
        return dict(zip(ATOMIC, self.theta.softmax(dim=0).tolist(), strict=True))


def _layers(hidden: int, layers: int, outputs: int, gain: float) -> nn.Sequential:
    widths = [REQUEST_INPUTS + 2 * REPLICA_INPUTS] + [hidden] * layers
    parts = [part for pair in itertools.pairwise(widths) for part in (linear(*pair), nn.ReLU())]
    return nn.Sequential(*parts, linear(hidden, outputs, gain=gain))
