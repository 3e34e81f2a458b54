"""Raw observation to network inputs: fixed scaling that is part of the network, and exported with it.

Every number x of the observation becomes `log1p(x / unit)`, about 0 to 6 over the range of a loaded
fleet; `-log1p(-x / unit)` below 0, where only the priority of a request may be. Every number of a replica is
also given relative to the fleet, as `log1p((x - least) / unit)` with `least` the smallest value among the
replicas that may be chosen. Routing is ranking: with the relative form the best replica by any one number
stands at exactly 0, whatever the load, and one linear layer can express "the shortest queue". The same goes
for forecasts (forecasts.py), which the network is given beside the columns.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from servegym.agents.networks.forecasts import FORECASTS, forecasts
from servegym.envs.sim.llm.view import (
    AVAILABLE,
    KV_TOTAL_BLOCKS,
    KV_USED_BLOCKS,
    LATENCY_WEIGHT,
    REPLICA_COLUMNS,
    REQUEST_COLUMNS,
    TTFT_WEIGHT,
)

UNITS = {"0 or 1": 1.0, "requests": 4.0, "tokens": 256.0, "blocks": 1024.0, "s": 0.03, "1": 0.25}
"""What counts as one, by the unit of the column: near the smallest difference that matters to a router."""

KV_SHARE_UNIT = 0.1
"""The unit of the share of KV blocks in use, an input added to the columns of the observation."""

FORECAST_UNITS = {
    "ttft_s": 0.03,
    "own_latency_s": 0.1,
    "delay_of_others_s": 0.1,
    "marginal_latency_s": 0.1,
    "crowded_latency_s": 0.1,
}
"""Of forecasts, in seconds."""

PRIOR_UNITS = (0.01, 0.03)
"""Seconds of TTFT and of latency that make a replica e times less likely by a prior of weight 1."""

WORST = 30.0
"""Where the prior ends: e^-30 of the best replica's probability is none."""

REQUEST_INPUTS = len(REQUEST_COLUMNS) + 1
REPLICA_INPUTS = 2 * (len(REPLICA_COLUMNS) + 1 + len(FORECASTS))


class RouterInputs(NamedTuple):
    """What a router network works on.

    request: (B, REQUEST_INPUTS); its last is how much of the objective is TTFT, 0 to 1. replicas: (B, R,
    REPLICA_INPUTS). priors: (B, R, 2), minus how much worse than the best replica one is foretold to be by
    the objective, with marginal and with crowded latency. legal: bool (B, R).
    """

    request: Tensor
    replicas: Tensor
    priors: Tensor
    legal: Tensor


class Normalise(nn.Module):
    """Scales raw observations; has no weights.

    A replica that may not be chosen becomes a row of zeros, so nothing it holds reaches the network.
    """

    request_units: Tensor
    replica_units: Tensor

    def __init__(self) -> None:
        super().__init__()
        request_units = torch.tensor([UNITS[unit] for _, unit in REQUEST_COLUMNS])
        units = [UNITS[unit] for _, unit in REPLICA_COLUMNS]
        replica_units = torch.tensor([*units, KV_SHARE_UNIT, *(FORECAST_UNITS[name] for name in FORECASTS)])
        self.register_buffer("request_units", request_units, persistent=False)
        self.register_buffer("replica_units", replica_units, persistent=False)

    def forward(self, request: Tensor, replicas: Tensor, setting: Tensor) -> RouterInputs:
        """Of raw `request` (B, 4), `replicas` (B, R, .) and `setting` (B, 9)."""
        legal = replicas[..., AVAILABLE] > 0.5
        used, total = replicas[..., KV_USED_BLOCKS], replicas[..., KV_TOTAL_BLOCKS]
        kv_share = (used / total.clamp(min=1.0)).unsqueeze(-1)
        foretold = forecasts(request, replicas, setting)
        quantities = torch.cat([replicas, kv_share, foretold], dim=-1) / self.replica_units
        illegal = ~legal.unsqueeze(-1)
        least = quantities.masked_fill(illegal, torch.inf).amin(dim=1, keepdim=True)
        relative = quantities - least
        # Clocks of a serving system jitter below zero, where log1p would not be a number.
        both = torch.cat([quantities, relative], dim=-1).clamp(min=0.0)
        amounts = request / self.request_units
        weights = setting[:, TTFT_WEIGHT], setting[:, LATENCY_WEIGHT]
        ttft_share = (weights[0] / (weights[0] + weights[1]).clamp(min=1e-6)).unsqueeze(1)
        request_inputs = torch.cat([amounts.sign() * amounts.abs().log1p(), ttft_share], dim=1)
        ttft = relative[..., -len(FORECASTS), None] * (FORECAST_UNITS["ttft_s"] / PRIOR_UNITS[0])
        latency = relative[..., -2:] * (FORECAST_UNITS["marginal_latency_s"] / PRIOR_UNITS[1])
        share = ttft_share.unsqueeze(-1)
        priors = -(share * ttft + (1.0 - share) * latency).clamp(max=WORST)
        inputs = torch.log1p(both).masked_fill(illegal, 0.0)
        return RouterInputs(request_inputs, inputs, priors.masked_fill(illegal, 0.0), legal)


def request_normalisation(unit: str) -> str:
    """How a number of the request with this unit enters the network, as a formula for a person."""
    return f"sign(x) * log1p(abs(x) / {UNITS[unit]:g})"


def replica_normalisation(unit: str) -> str:
    """How a number of a replica with this unit enters the network, as a formula for a person."""
    return f"log1p(x / {UNITS[unit]:g}) and log1p((x - fleet minimum) / {UNITS[unit]:g})"
