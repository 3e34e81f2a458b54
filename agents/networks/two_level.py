"""The network of both levels: a router over the replicas, and one scheduler that all engines share."""

from typing import Any

import torch
from torch import Tensor, nn

from servegym.agents.networks.action_network import ILLEGAL_LOGIT, ActionNetwork, Inputs, linear
from servegym.agents.networks.engine_scorer import OF_A_FLEET, EngineActor, Scale, Seen, Whole
from servegym.agents.networks.gnn import RouterGNN
from servegym.agents.networks.normalise import REPLICA_INPUTS, REQUEST_INPUTS
from servegym.agents.networks.seats import seat_waits_s

SEATS_UNIT_S = 0.03
"""Seconds of waiting for places that make a replica e times less likely in an untrained network (ours)."""


class FleetCritic(nn.Module):
    """The value of a whole fleet at a decision of either level, from all that is seen (centralised)."""

    def __init__(self, hidden: int, layers: int) -> None:
        super().__init__()
        self.encode_replica = linear(REPLICA_INPUTS, hidden)
        self.engine = Whole(hidden, 1)
        self.encode = linear(1 + REQUEST_INPUTS + 3 * hidden, hidden)
        self.trunk = nn.ModuleList(linear(hidden, hidden) for _ in range(layers - 1))
        self.value = linear(hidden, 1, gain=1.0)

    def forward(self, scheduling: Tensor, request: Tensor, replicas: Tensor, seen: Seen) -> Tensor:
        """Values (B,). scheduling: (B, 1), 1 at decisions of that level; request, replicas: normalised."""
        states = torch.relu(self.encode_replica(replicas))
        engine, _ = self.engine(seen)
        parts = [scheduling, request, states.mean(dim=1), states.amax(dim=1), engine * scheduling]
        state = torch.relu(self.encode(torch.cat(parts, dim=1)))
        for layer in self.trunk:
            state = torch.relu(layer(state))
        value: Tensor = self.value(state).squeeze(-1)
        return value


class TwoLevelNetwork(ActionNetwork):
    """All agents of `servegym/TwoLevel-v0` as one network: what MAPPO with shared parameters trains.

    Yu et al., "The Surprising Effectiveness of PPO in Cooperative Multi-Agent Games" (NeurIPS 2022). The
    router scores any number of replicas by the same weights (RouterGNN; beside its forecasts it is given that
    of waits for places, by a weight that is learnt and begins at 1). The scheduler of every replica is one
    and the same network over its own engine (EngineActor). The value is one, of the whole fleet; only
    training asks for it. `hidden` is the width of all three, `layers` how many layers, or rounds of messages.
    """

    def __init__(self, hidden: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.router = RouterGNN(hidden, layers)
        self.seats_weight = nn.Parameter(torch.ones(()))
        self.scale = Scale(OF_A_FLEET)
        self.scheduler = EngineActor(hidden, layers)
        self.critic = FleetCritic(hidden, layers)

    def prepare(self, observation: Any) -> Inputs:
        """The level, waits for places beyond the least, and what router and scheduler make of theirs."""
        fleet = {name: observation[name] for name in ("request", "replicas", "setting")}
        waits = seat_waits_s(**fleet)
        excess = (waits - waits.amin(dim=1, keepdim=True)) / SEATS_UNIT_S
        scheduling = observation["level"].reshape(-1, 1).to(waits.dtype)
        seen = self.scale(observation["engine"], observation["requests"])
        return Inputs((scheduling, excess, *seen, *self.router.prepare(fleet)))

    def decide(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, R + 68), of which those of the level that is not due are illegal, and values (B,)."""
        scheduling, excess, *rest = inputs
        seen, fleet = Seen(*rest[: len(Seen._fields)]), rest[len(Seen._fields) :]
        routes = self.router.decide(*fleet)[0] - self.seats_weight * excess
        choices = self.scheduler(seen)
        logits = [
            routes.masked_fill(scheduling > 0, ILLEGAL_LOGIT),
            choices.masked_fill(scheduling == 0, ILLEGAL_LOGIT),
        ]
        return torch.cat(logits, dim=1), self.critic(scheduling, fleet[0], fleet[1], seen)

    def forward(
        self,
        level: Tensor,
        request: Tensor,
        replicas: Tensor,
        setting: Tensor,
        engine: Tensor,
        requests: Tensor,
        replica: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Raw observations of TwoLevel-v0 to logits (B, R + 68) and values (B,).

        `replica` is not used: all replicas have the same scheduler.
        """
        seen = {"level": level, "request": request, "replicas": replicas, "setting": setting}
        return self.decide(*self.prepare({**seen, "engine": engine, "requests": requests}))
