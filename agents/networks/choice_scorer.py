"""The network of elastic sequence parallelism: every action scored by what it would mean, on any fleet."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from servegym.agents.networks.action_network import ILLEGAL_LOGIT, ActionNetwork, linear
from servegym.envs.elastic_sequence_parallel.observation import (
    CHOICE_COLUMNS,
    GLOBAL_COLUMNS,
    GROUP,
    GROUP_COLUMNS,
    INSTANCE_COLUMNS,
    LEGAL,
    REQUEST_COLUMNS,
)

UNITS = {
    "0 or 1": 1.0,
    "": 1.0,
    "instances": 1.0,
    "requests": 4.0,
    "iterations": 4.0,
    "tokens": 1000.0,
    "1/token": 1e-4,
    "s": 0.01,
}
"""What counts as one, by the unit of the column (ours)."""

KINDS = 6
"""Of actions: go on, prefill in order of arrival, prefill shortest first, one more, one less, join."""

RANK = [name for name, _ in INSTANCE_COLUMNS].index("rank")


class Graph(NamedTuple):
    """A fleet and its queue as a network sees them: scaled numbers, and who hears of whom.

    overall (B, ..), instances (B, N, ..), groups (B, 2 N, ..), requests (B, R, ..). shares (B, N, 2 N): of
    the KV on an instance the part that is each group's. asked (B, 1, 2 N): 1 for the group asked about.
    """

    overall: Tensor
    instances: Tensor
    groups: Tensor
    requests: Tensor
    shares: Tensor
    asked: Tensor


class Scaled(nn.Module):
    """`log1p(x / unit)` of columns, and likewise below 0; has no weights."""

    units: Tensor

    def __init__(self, columns: tuple[tuple[str, str], ...]) -> None:
        super().__init__()
        self.register_buffer("units", torch.tensor([UNITS[unit] for _, unit in columns]), persistent=False)

    def forward(self, columns: Tensor) -> Tensor:
        """Raw numbers (..., F) to inputs (..., F)."""
        amounts = columns / self.units
        return amounts.sign() * amounts.abs().log1p()


class Whole(nn.Module):
    """Instances that hear of the groups whose KV they hold, and what there is in all."""

    def __init__(self, hidden: int, layers: int) -> None:
        super().__init__()
        self.encode_group = linear(len(GROUP_COLUMNS), hidden)
        self.encode_instance = linear(len(INSTANCE_COLUMNS), hidden)
        self.instance_from_groups = linear(hidden, hidden, bias=False)
        self.encode_request = linear(len(REQUEST_COLUMNS), hidden)
        self.encode = linear(len(GLOBAL_COLUMNS) + 4 * hidden, hidden)
        self.trunk = nn.ModuleList(linear(hidden, hidden) for _ in range(layers - 1))

    def forward(self, graph: Graph) -> tuple[Tensor, Tensor]:
        """The state of the whole (B, hidden) and of each instance (B, N, hidden)."""
        group_state = torch.relu(self.encode_group(graph.groups))
        heard = self.instance_from_groups(graph.shares @ group_state)
        instance_state = torch.relu(self.encode_instance(graph.instances) + heard)
        request_state = torch.relu(self.encode_request(graph.requests))
        parts = [
            graph.overall,
            instance_state.mean(dim=1),
            group_state.mean(dim=1),
            (graph.asked @ group_state).squeeze(1),
            request_state.mean(dim=1),
        ]
        whole = torch.relu(self.encode(torch.cat(parts, dim=1)))
        for layer in self.trunk:
            whole = torch.relu(layer(whole))
        return whole, instance_state


class ChoiceScorer(ActionNetwork):
    """Scores each action from its row of `choices`, its kind, the whole, and the instances it would take.

    All rows go through the same weights, so a network fits any number of instances. The value has a whole of
    its own: sharing one, its gradients would drown those of the scores. `hidden` is the width, `layers` how
    many there are over the whole.
    """

    def __init__(self, hidden: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.scale_globals, self.scale_choices = Scaled(GLOBAL_COLUMNS), Scaled(CHOICE_COLUMNS)
        self.scale_instances, self.scale_groups = Scaled(INSTANCE_COLUMNS), Scaled(GROUP_COLUMNS)
        self.scale_requests = Scaled(REQUEST_COLUMNS)
        self.actor, self.critic = Whole(hidden, layers), Whole(hidden, layers)
        self.choice_from_itself = linear(len(CHOICE_COLUMNS), hidden)
        self.choice_from_kind = nn.Parameter(torch.zeros(KINDS, hidden))
        self.choice_from_whole = linear(hidden, hidden, bias=False)
        self.choice_from_instances = linear(hidden, hidden, bias=False)
        self.mix = linear(hidden, hidden)
        self.score = linear(hidden, 1, gain=0.01)
        self.value = linear(hidden, 1, gain=1.0)

    def forward(
        self,
        globals: Tensor,  # the observation's name
        choices: Tensor,
        instances: Tensor,
        groups: Tensor,
        members: Tensor,
        requests: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Raw observations of ElasticSequenceParallel-v0 to logits (B, 2 N + 4) and values (B,)."""
        held = members.transpose(1, 2)
        graph = Graph(
            self.scale_globals(globals),
            self.scale_instances(instances),
            self.scale_groups(groups),
            self.scale_requests(requests),
            held / held.sum(dim=2, keepdim=True).clamp(min=1.0),
            groups[..., GROUP["asked"]].unsqueeze(1),
        )
        whole, instance_state = self.actor(graph)
        num_instances = instances.shape[1]
        counts = torch.tensor([1, num_instances, num_instances, 1, 1, 1], device=choices.device)
        each = (
            self.choice_from_itself(self.scale_choices(choices))
            + self.choice_from_kind.repeat_interleave(counts, dim=0)
            + self.choice_from_whole(whole).unsqueeze(1)
            + _of_taken(instances[..., RANK], self.choice_from_instances(instance_state))
        )
        scores = self.score(torch.relu(self.mix(torch.relu(each)))).squeeze(-1)
        logits = scores.masked_fill(choices[..., LEGAL] <= 0, ILLEGAL_LOGIT)
        return logits, self.value(self.critic(graph)[0]).squeeze(-1)

    def best(self, logits: Tensor) -> Tensor:
        """Whether to prefill, if that is likelier than not, and then of its actions the likeliest."""
        num_prefills = logits.shape[1] - 4
        prefills = logits[:, 1 : 1 + num_prefills]
        others = torch.cat([logits[:, :1], logits[:, 1 + num_prefills :]], dim=1)
        prefill = 1 + prefills.argmax(dim=1)
        other = others.argmax(dim=1)
        other = torch.where(other == 0, 0, num_prefills + other)
        return torch.where(prefills.logsumexp(dim=1) > others.logsumexp(dim=1), prefill, other)


def _of_taken(rank: Tensor, instances: Tensor) -> Tensor:
    """Of each action the mean over the instances that its prefill takes, (B, 2 N + 4, hidden); else 0."""
    degrees = torch.arange(1, rank.shape[1] + 1, device=rank.device, dtype=rank.dtype).view(1, -1, 1)
    takes = (rank.unsqueeze(1) > 0) & (rank.unsqueeze(1) <= degrees)  # (B, degree, instance)
    parts = takes.to(rank.dtype) / degrees
    nobody = torch.zeros_like(parts[:, :1])
    return torch.cat([nobody, parts, parts, nobody, nobody, nobody], dim=1) @ instances
