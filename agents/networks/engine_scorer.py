"""The network of an engine's scheduler: all requests are scored by the same weights, whatever their rows."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from servegym.agents.batching import ENGINE
from servegym.agents.networks.action_network import ILLEGAL_LOGIT, ActionNetwork, Inputs, linear
from servegym.envs.sim.llm.decision_view import (
    ENGINE_COLUMNS,
    GENERATED_TOKENS,
    KNOWN_TOKENS,
    LEGAL,
    PREDICTED_OUTPUT_TOKENS,
    ROW_COLUMNS,
    SINCE_ARRIVAL_S,
)
from servegym.envs.sim.llm.decisions import NUM_CHOICES, NUM_ROWS, SHARES, VISIBLE

UNITS = {"0 or 1": 1.0, "requests": 4.0, "tokens": 64.0, "blocks": 64.0, "s": 0.25, "1": 0.25}
"""What counts as one, by the unit of the column (ours)."""

STATES = 3
"""The first columns of a row: is_waiting, is_prefilling, is_decoding; all 0 where there is no request."""

RULE_WEIGHT = 5.0
"""How much higher an untrained network scores what the rule would do (ours)."""

ROW_INPUTS = 2 * (len(ROW_COLUMNS) + 1)


class Seen(NamedTuple):
    """An engine at a decision, scaled for a network.

    engine (B, ENGINE_FEATURES). rows (B, 2, VISIBLE, ROW_INPUTS), those who wait and those who run. there
    (B, 2, VISIBLE) bool: whether the row has a request; legal, likewise: whether it may be admitted (to
    preempt is for the engine). shares (B, 4) bool: with which of SHARES an iteration may start. ruled
    (B, 68): 1 for what the rule would do.
    """

    engine: Tensor
    rows: Tensor
    there: Tensor
    legal: Tensor
    shares: Tensor
    ruled: Tensor


class Rule(NamedTuple):
    """What a scheduler begins with and how far it may depart from it, on tensors.

    The rule is agents/batching.py's BoundedShortestFirst, with its parameters. `leeway` is not of it: who
    is due later than the first by more than this share of the oldest's age may not be admitted yet, so that
    nobody starves whatever is learnt; None: all may be admitted. No iteration starts while who is due first
    fits, none without prefills or, in a hurry, with less than all of the budget for them, and nobody is
    preempted but by the engine where memory is lacking: what keeps others waiting pays at once and costs
    late, and a policy that does it at times would, once it no longer draws its actions and always takes the
    likeliest, do it for ever.
    """

    patience: float
    largest_job: float
    leeway: float | None
    prompt_weight: float = 0.3
    long_queue: int = 8
    slack: float = 0.2
    hurry_s: float = math.inf

    def due_s(self, rows: Tensor, remaining: Tensor) -> tuple[Tensor, Tensor]:
        """When each who waits is due, seconds from now (B, VISIBLE), and the age of the oldest (B, 1)."""
        age_s = rows[..., SINCE_ARRIVAL_S]
        oldest_s = age_s.amax(dim=1, keepdim=True)
        job = (remaining + self.prompt_weight * rows[..., KNOWN_TOKENS]) / self.largest_job
        return self.patience * oldest_s * job.clamp(max=1.0) - age_s, oldest_s

    def share(self, engine: Tensor, oldest_s: Tensor) -> tuple[Tensor, Tensor]:
        """The number in SHARES of what prefills get, int64 (B,), and whether there is a hurry, bool (B,)."""
        running, seats_left = engine[:, ENGINE["running"]], engine[:, ENGINE["seats_left"]]
        used, blocks = engine[:, ENGINE["kv_used_blocks"]], engine[:, ENGINE["kv_total_blocks"]]
        room = (seats_left > self.slack * (seats_left + running)) & (blocks - used > self.slack * blocks)
        grow = room & (engine[:, ENGINE["waiting"]] >= self.long_queue)
        beside = SHARES.index(0.25) + (SHARES.index(0.5) - SHARES.index(0.25)) * grow.long()
        hurry = room & (oldest_s.squeeze(1) > self.hurry_s)
        alone = engine[:, ENGINE["decoding"]] == 0
        return torch.where(alone | hurry, SHARES.index(1.0), beside), hurry


ALONE = Rule(patience=0.9, largest_job=750.0, leeway=0.1, hurry_s=0.8)
"""Of one engine, where P99 and the longest wait count as well: chosen on training traffic."""

OF_A_FLEET = Rule(patience=4.0, largest_job=1500.0, leeway=None)
"""Of each engine of a fleet, where mean latency counts: chosen on training traffic."""


class Scale(nn.Module):
    """`log1p(x / unit)` of every number, and of a request's also less the least in its half; has no weights.

    Predicted output still to come is one number more. In the relative form the request with the least of a
    number stands at exactly 0 however long the queue is, and choosing by that number is one linear layer.
    """

    engine_units: Tensor
    row_units: Tensor

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule = rule
        engine_units = torch.tensor([UNITS[unit] for _, unit in ENGINE_COLUMNS])
        row_units = torch.tensor([UNITS[unit] for _, unit in ROW_COLUMNS] + [UNITS["tokens"]])
        self.register_buffer("engine_units", engine_units, persistent=False)
        self.register_buffer("row_units", row_units, persistent=False)

    def forward(self, engine: Tensor, requests: Tensor) -> Seen:
        """Raw `engine` (B, 13) and `requests` (B, 64, 12) to what the network reads."""
        halves = requests.reshape(-1, 2, VISIBLE, len(ROW_COLUMNS))
        there = halves[..., :STATES].sum(dim=-1) > 0
        remaining = (halves[..., PREDICTED_OUTPUT_TOKENS] - halves[..., GENERATED_TOKENS]).clamp(min=0.0)
        amounts = torch.cat([halves, remaining.unsqueeze(-1)], dim=-1) / self.row_units
        nobody = ~there.unsqueeze(-1)
        least = amounts.masked_fill(nobody, torch.inf).amin(dim=2, keepdim=True)
        above = torch.log1p((amounts - least).clamp(min=0.0))
        rows = torch.cat([amounts.sign() * amounts.abs().log1p(), above], dim=-1).masked_fill(nobody, 0.0)
        waits = there[:, 0]
        legal = halves[..., LEGAL] > 0
        due_s, oldest_s = self.rule.due_s(halves[:, 0], remaining[:, 0])
        due_s = due_s.masked_fill(~waits, torch.inf)
        first_s, first = due_s.min(dim=1, keepdim=True)
        fits = legal[:, 0].gather(1, first)
        share, hurry = self.rule.share(engine, oldest_s)
        act = torch.where(fits.squeeze(1), first.squeeze(1), NUM_ROWS + share)
        in_time = waits
        if self.rule.leeway is not None:
            in_time = due_s <= first_s + self.rule.leeway * oldest_s
        legal = legal & torch.stack([in_time, torch.zeros_like(waits)], dim=1)
        ruled = torch.nn.functional.one_hot(act, NUM_CHOICES).to(engine.dtype)
        runs = (engine[:, ENGINE["running"], None] > 0) & ~fits
        less = runs & ~hurry.unsqueeze(1)
        shares = torch.cat([torch.zeros_like(runs), *[less] * (len(SHARES) - 2), runs], dim=1)
        return Seen(torch.log1p(engine / self.engine_units), rows, there, legal, shares, ruled)


class Whole(nn.Module):
    """The engine, and the means and maxima over those who wait and those who run of one layer over each."""

    def __init__(self, hidden: int, layers: int) -> None:
        super().__init__()
        self.encode_row = linear(ROW_INPUTS, hidden)
        self.encode = linear(len(ENGINE_COLUMNS) + 4 * hidden, hidden)
        self.trunk = nn.ModuleList(linear(hidden, hidden) for _ in range(layers - 1))

    def forward(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """The state of the whole (B, hidden) and of each row (B, 2, VISIBLE, hidden)."""
        there = seen.there.unsqueeze(-1)
        rows = torch.relu(self.encode_row(seen.rows)) * there
        mean = rows.sum(dim=2) / there.sum(dim=2).clamp(min=1)
        pooled = torch.cat([mean, rows.amax(dim=2)], dim=-1).flatten(1)
        whole = torch.relu(self.encode(torch.cat([seen.engine, pooled], dim=1)))
        for layer in self.trunk:
            whole = torch.relu(layer(whole))
        return whole, rows


class EngineActor(nn.Module):
    """Scores of the 68 choices of one engine's scheduler, for every engine of a batch by itself.

    What to do, admit, preempt, or start with each of SHARES, is scored from the whole: that is also the score
    of the best row, and of the others what they are behind it. So the highest score is of the best row of the
    best thing to do, however many rows there are. What the rule would do is scored higher by a weight that
    is learnt and begins at RULE_WEIGHT: an untrained network follows the rule, and learns where it is wrong.
    """

    def __init__(self, hidden: int, layers: int) -> None:
        super().__init__()
        self.whole = Whole(hidden, layers)
        self.rule_weight = nn.Parameter(torch.tensor(RULE_WEIGHT))
        self.row_from_itself = linear(hidden, hidden)
        self.row_from_whole = linear(hidden, hidden, bias=False)
        self.score_row = linear(hidden, 1, gain=0.01)
        self.score_kinds = linear(hidden, 2 + len(SHARES), gain=0.01)

    def forward(self, seen: Seen) -> Tensor:
        """Logits (B, 68); illegal ones are ILLEGAL_LOGIT."""
        whole, rows = self.whole(seen)
        each = torch.relu(self.row_from_itself(rows) + self.row_from_whole(whole)[:, None, None])
        scores = self.score_row(each).squeeze(-1).masked_fill(~seen.legal, ILLEGAL_LOGIT)
        kinds = self.score_kinds(whole)
        rows_of_kind = kinds[:, :2].unsqueeze(-1) + scores - scores.amax(dim=-1, keepdim=True)
        acts = rows_of_kind.masked_fill(~seen.legal, ILLEGAL_LOGIT).flatten(1)
        starts = kinds[:, 2:].masked_fill(~seen.shares, ILLEGAL_LOGIT)
        return torch.cat([acts, starts], dim=1) + self.rule_weight * seen.ruled


class EngineScorer(ActionNetwork):
    """The scheduler of `servegym/Batching-v0`: logits of its choices, and the value.

    The value has a whole of its own: sharing one, its gradients would drown those of the scores. `hidden`
    is the width, `layers` how many there are over the whole. It knows by itself which choices are legal, and
    leaves out what ALONE forbids: to admit who has still to wait for others, to preempt, to start while
    who is due first fits, and to start without prefills, or with short ones in a hurry.
    """

    def __init__(self, hidden: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.scale = Scale(ALONE)
        self.actor, self.critic = EngineActor(hidden, layers), Whole(hidden, layers)
        self.value = linear(hidden, 1, gain=1.0)

    def prepare(self, observation: dict[str, Tensor]) -> Inputs:
        """What `Seen` says of raw observations."""
        return Inputs(self.scale(**observation))

    def decide(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, 68) and values (B,)."""
        seen = Seen(*inputs)
        return self.actor(seen), self.value(self.critic(seen)[0]).squeeze(-1)

    def forward(self, engine: Tensor, requests: Tensor) -> tuple[Tensor, Tensor]:
        """Raw observations of Batching-v0 to logits (B, 68) and values (B,)."""
        return self.decide(*self.scale(engine, requests))
