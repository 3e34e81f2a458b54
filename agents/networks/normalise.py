"""Raw observation to network inputs: fixed scaling that is part of the network, and exported with it.

Every number x of the observation becomes `log1p(x / unit)`, about 0 to 6 over the range of a loaded
fleet; `-log1p(-x / unit)` below 0, where only the priority of a request may be. Every number of a replica is
also given relative to the fleet, as `log1p((x - least) / unit)` with `least` the smallest value among the
replicas that may be chosen. Routing is ranking: with the relative form the best replica by any one number
stands at exactly 0, whatever the load, and one linear layer can express "the shortest queue".
"""

import torch
from torch import Tensor, nn

from servegym.envs.sim.llm.view import (
    AVAILABLE,
    KV_TOTAL_BLOCKS,
    KV_USED_BLOCKS,
    REPLICA_COLUMNS,
    REQUEST_COLUMNS,
)

UNITS = {"0 or 1": 1.0, "requests": 4.0, "tokens": 256.0, "blocks": 1024.0, "s": 0.03, "1": 0.25}
"""What counts as one, by the unit of the column: near the smallest difference that matters to a router."""

KV_SHARE_UNIT = 0.1
"""The unit of the share of KV blocks in use, an input added to the columns of the observation."""

REQUEST_INPUTS = len(REQUEST_COLUMNS)
REPLICA_INPUTS = 2 * (len(REPLICA_COLUMNS) + 1)


class Normalise(nn.Module):
    """Scales raw observations; has no weights.

    A replica that may not be chosen becomes a row of zeros, so nothing it holds reaches the network.
    """

    request_units: Tensor
    replica_units: Tensor

    def __init__(self) -> None:
        super().__init__()
        request_units = torch.tensor([UNITS[unit] for _, unit in REQUEST_COLUMNS])
        replica_units = torch.tensor([UNITS[unit] for _, unit in REPLICA_COLUMNS])
        self.register_buffer("request_units", request_units, persistent=False)
        self.register_buffer("replica_units", replica_units, persistent=False)

    def forward(self, request: Tensor, replicas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raw `request` (B, 4) and `replicas` (B, R, 15) to inputs (B, 4), (B, R, 32), legal (B, R) bool."""
        legal = replicas[..., AVAILABLE] > 0.5
        used, total = replicas[..., KV_USED_BLOCKS], replicas[..., KV_TOTAL_BLOCKS]
        kv_share = (used / total.clamp(min=1.0) / KV_SHARE_UNIT).unsqueeze(-1)
        quantities = torch.cat([replicas / self.replica_units, kv_share], dim=-1)
        illegal = ~legal.unsqueeze(-1)
        least = quantities.masked_fill(illegal, torch.inf).amin(dim=1, keepdim=True)
        # Clocks of a serving system jitter below zero, where log1p would not be a number.
        both = torch.cat([quantities, quantities - least], dim=-1).clamp(min=0.0)
        amounts = request / self.request_units
        request_inputs = amounts.sign() * amounts.abs().log1p()
        return request_inputs, torch.log1p(both).masked_fill(illegal, 0.0), legal


def request_normalisation(unit: str) -> str:
    """How a number of the request with this unit enters the network, as a formula for a person."""
    return f"sign(x) * log1p(abs(x) / {UNITS[unit]:g})"


def replica_normalisation(unit: str) -> str:
    """How a number of a replica with this unit enters the network, as a formula for a person."""
    return f"log1p(x / {UNITS[unit]:g}) and log1p((x - fleet minimum) / {UNITS[unit]:g})"
