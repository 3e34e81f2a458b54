"""The network of deferred batching: any number of GPUs and of models, all GPUs scored by the same weights."""

import torch
from torch import Tensor, nn

from servegym.agents.networks.action_network import ILLEGAL_LOGIT, ActionNetwork, linear
from servegym.envs.deferred_batching.observation import (
    CANDIDATE_COLUMNS,
    GPU_COLUMNS,
    IDLE,
    MAY_WAIT,
    MODEL_COLUMNS,
    UNTIL_FRONT_S,
)

UNITS = {"0 or 1": 1.0, "requests": 4.0, "s": 1e-3, "requests/s": 500.0}
"""What counts as one, by the unit of the column (ours)."""

KINDS = 3
"""To wait, to send the candidate, to send the batch gathered for 3/4 of the target size."""


class Whole(nn.Module):
    """The candidate, and the means over GPUs and over models of what one layer makes of each."""

    candidate_units: Tensor
    model_units: Tensor
    gpu_units: Tensor

    def __init__(self, hidden: int, layers: int) -> None:
        super().__init__()
        self.register_buffer("candidate_units", _units(CANDIDATE_COLUMNS), persistent=False)
        self.register_buffer("model_units", _units(MODEL_COLUMNS), persistent=False)
        self.register_buffer("gpu_units", _units(GPU_COLUMNS), persistent=False)
        self.encode_gpu = linear(len(GPU_COLUMNS), hidden)
        self.encode_model = linear(len(MODEL_COLUMNS), hidden)
        self.encode = linear(len(CANDIDATE_COLUMNS) + 2 + 2 * hidden, hidden)
        self.trunk = nn.ModuleList(linear(hidden, hidden) for _ in range(layers - 1))

    def forward(self, candidate: Tensor, models: Tensor, gpus: Tensor) -> tuple[Tensor, Tensor]:
        """Raw observations to the state of the whole (B, hidden) and of each GPU (B, G, hidden)."""
        # The agent is asked at these very instants, and next to them everything else looks the same.
        begun = candidate[:, UNTIL_FRONT_S : UNTIL_FRONT_S + 2] <= 0
        gpu_state = torch.relu(self.encode_gpu(_scaled(gpus, self.gpu_units)))
        model_state = torch.relu(self.encode_model(_scaled(models, self.model_units)))
        numbers = _scaled(candidate, self.candidate_units)
        inputs = torch.cat([numbers, begun, gpu_state.mean(dim=1), model_state.mean(dim=1)], dim=1)
        whole = torch.relu(self.encode(inputs))
        for layer in self.trunk:
            whole = torch.relu(layer(whole))
        return whole, gpu_state


class GpuScorer(ActionNetwork):
    """Scores the three kinds of answers from the whole, and the GPUs that a batch may go to each by itself.

    The probability of a kind is shared out among the idle GPUs, so how many there are does not tilt the
    choice. The value has a whole of its own: sharing one, its gradients would drown those of the scores.
    `hidden` is the width, `layers` how many there are over the whole.
    """

    def __init__(self, hidden: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.actor, self.critic = Whole(hidden, layers), Whole(hidden, layers)
        self.gpu_from_whole = linear(hidden, hidden, bias=False)
        self.gpu_from_itself = linear(hidden, hidden)
        self.score_kinds = linear(hidden, KINDS, gain=0.01)
        self.score_gpu = linear(hidden, KINDS - 1, gain=0.01)
        self.value = linear(hidden, 1, gain=1.0)

    def forward(
        self, candidate: Tensor, models: Tensor, gpus: Tensor, weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Raw observations of DeferredBatching-v0 to logits (B, 1 + 2 G) and values (B,).

        `weights` is not used: whose weights a GPU has is seen for the model asked about.
        """
        may_wait = candidate[:, MAY_WAIT] > 0
        idle = gpus[..., IDLE] > 0
        whole, gpu_state = self.actor(candidate, models, gpus)
        each = torch.relu(self.gpu_from_itself(gpu_state) + self.gpu_from_whole(whole).unsqueeze(1))
        scores = self.score_gpu(each).masked_fill(~idle.unsqueeze(-1), ILLEGAL_LOGIT)
        kinds = self.score_kinds(whole)
        shared = kinds[:, 1:].unsqueeze(-1) + scores.transpose(1, 2).log_softmax(dim=-1)  # (B, 2, G)
        sends = shared.masked_fill(~idle.unsqueeze(1), ILLEGAL_LOGIT).flatten(1)
        waits = kinds[:, :1].masked_fill(~may_wait.unsqueeze(-1), ILLEGAL_LOGIT)
        state, _ = self.critic(candidate, models, gpus)
        return torch.cat([waits, sends], dim=1), self.value(state).squeeze(-1)

    def best(self, logits: Tensor) -> Tensor:
        """The likeliest kind of answer, and of its GPUs the likeliest."""
        sends = logits[:, 1:].reshape(len(logits), KINDS - 1, -1)
        kind = torch.cat([logits[:, :1], sends.logsumexp(dim=-1)], dim=1).argmax(dim=1)
        num_gpus = sends.shape[-1]
        gpu = sends[torch.arange(len(kind)), (kind - 1).clamp(min=0)].argmax(dim=1)
        return torch.where(kind == 0, 0, 1 + (kind - 1) * num_gpus + gpu)


def _units(columns: tuple[tuple[str, str], ...]) -> Tensor:
    return torch.tensor([UNITS[unit] for _, unit in columns])


def _scaled(columns: Tensor, units: Tensor) -> Tensor:
    """`log1p(x / unit)`, and likewise below 0: about 0 to 6 over what a loaded cluster shows."""
    amounts = columns / units
    return amounts.sign() * amounts.abs().log1p()
