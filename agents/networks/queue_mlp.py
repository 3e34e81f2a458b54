"""The network of one batching server: it looks at the queue only."""

import itertools

import torch
from torch import Tensor, nn

from servegym.agents.networks.action_network import ActionNetwork, linear
from servegym.envs.dynamic_batching.observation import DRAINING, QUEUE

INPUTS = 5


class QueueMLP(ActionNetwork):
    """Scores waiting and batches of 1 to `num_actions - 1` requests, by `layers` layers of width `hidden`.

    Arrivals of the environment are Poisson, so what will come depends on nothing that has been: who waits is
    all there is to know, and the trained policy is a table by the length of the queue. A batch is scored by
    how many requests it leaves behind of those that it could take: "all there are" is one score, whatever the
    queue. Illegal actions are masked by whoever asks.
    """

    def __init__(self, num_actions: int, hidden: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.max_batch = num_actions - 1
        widths = [INPUTS] + [hidden] * layers
        self.trunk = nn.ModuleList(linear(*pair) for pair in itertools.pairwise(widths))
        self.score = linear(hidden, num_actions, gain=0.01)
        self.value = linear(hidden, 1, gain=1.0)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Raw observations (B, 4) of DynamicBatching-v0 to logits (B, A) and values (B,)."""
        queue, draining = observation[:, QUEUE], observation[:, DRAINING]
        takes = queue.clamp(max=self.max_batch)
        state = torch.stack(
            [
                torch.log1p(queue),
                takes / self.max_batch,
                (takes / self.max_batch).square(),
                (queue - takes) / self.max_batch,
                draining,
            ],
            dim=1,
        )
        for layer in self.trunk:
            state = torch.relu(layer(state))
        scores = self.score(state)  # of waiting, then of leaving 0, 1, ... behind
        sizes = torch.arange(1, self.max_batch + 1, device=scores.device)
        left = (takes.long().unsqueeze(1) - sizes).clamp(min=0)
        logits = torch.cat([scores[:, :1], scores[:, 1:].gather(1, left)], dim=1)
        return logits, self.value(state).squeeze(-1)
