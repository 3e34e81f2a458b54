"""Which waiting requests LoongServe's manager admits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.reference.elastic.fleet import Fleet
from tests.reference.elastic.managers.parameters import Parameters
from tests.reference.elastic.managers.times import expected_s
from tests.reference.elastic.memory import fits, in_groups
from tests.reference.elastic.request import FINISHED, Request


@dataclass
class Decision:
    """Requests in order of admission, and whether somebody was passed over for them."""

    requests: list[Request]
    ahead: bool


def room_for_kv(fleet: Fleet) -> int:
    """k: instances that would be without KV if all of it were packed."""
    return fleet.num_instances - math.ceil(sum(fleet.used) / fleet.capacity)


def dispatch(fleet: Fleet, parameters: Parameters, skips: int) -> Decision:
    """Go through the queue once."""
    walk = Walk(fleet, parameters, skips < parameters.out_of_order)
    for r in fleet.queue:
        if walk.may_enter(r) and (walk.admit(r) or walk.defer(r)):
            continue
        if not walk.may_skip or walk.last:
            break
        walk.passed_over = True
    return Decision(walk.admitted + walk.undecided[: walk.take], walk.ahead)


@dataclass
class Walk:
    """R and U of the page."""

    fleet: Fleet
    parameters: Parameters
    may_skip: bool
    admitted: list[Request] = field(default_factory=list)
    undecided: list[Request] = field(default_factory=list)
    take: int = 0  # of `undecided`, that are admitted in the end
    open: bool = True
    last: bool = False
    ahead: bool = False
    passed_over: bool = False

    def __post_init__(self) -> None:
        fleet = self.fleet
        decoding = in_groups(fleet)
        finished = [r.out for r in fleet.ended if r.outcome == FINISHED]
        mean_output = (512 + sum(finished)) / (1 + len(finished))
        waits = [mean_output - r.out for r in decoding] + [0.1 * r.out for r in decoding]
        self.slack_s = self.parameters.decoding_s * max([10.0, *waits])
        self.loss = sum(1 / r.out for r in decoding)
        self.total_free = fleet.num_instances * fleet.capacity - sum(fleet.used)
        self.packed = room_for_kv(fleet)
        self.empty = sum(used == 0 for used in fleet.used)

    def within(self, requests: Sequence[Request]) -> bool:
        """Beside those of groups: not too many, they fit to their end, and there is room for their KV."""
        fleet = self.fleet
        return (
            len(in_groups(fleet)) + len(requests) <= self.parameters.max_requests
            and fits(fleet.groups, requests, fleet.num_instances * fleet.capacity)
            and tokens_of(requests) <= self.total_free
        )

    def may_enter(self, r: Request) -> bool:
        """Beside those admitted."""
        x = tokens_of([*self.admitted, r])
        return (
            self.within([*self.admitted, r, *self.undecided[: self.take]])
            and (x <= self.parameters.max_tokens or not self.admitted)
            and (self.parameters.scale_up or x <= self.fleet.capacity * self.empty)
        )

    def admit(self, r: Request) -> bool:
        """Where decodes lose nothing by it: on the instances that they can do without."""
        requests = [*self.admitted, r]
        if self.undecided and not self.may_skip:
            return False
        if tokens_of(requests) > self.packed * self.fleet.capacity:
            return False
        now_s = expected_s(self.fleet, self.packed, requests)
        best_s = expected_s(self.fleet, self.fleet.num_instances, requests)
        if now_s - best_s > self.slack_s:
            return False
        if self.admitted and now_s > self.parameters.max_prefill_s:
            return False
        if now_s > self.parameters.max_prefill_s:
            self.last = True
        if self.undecided or self.passed_over:
            self.ahead = True
        self.admitted.append(r)
        return True

    def defer(self, r: Request) -> bool:
        """Where it is not known yet whether stopping the decodes pays."""
        undecided = [*self.undecided, r]
        requests = self.admitted + undecided
        alone = len(requests) == 1
        few = tokens_of(requests) <= self.parameters.max_tokens or alone
        if not self.open or not self.within(requests) or not few:
            self.open = False
            return False
        self.undecided = undecided
        stop_s = expected_s(self.fleet, self.fleet.num_instances, requests)
        gain = sum(1 / u.tokens for u in undecided)
        pays = stop_s * self.loss <= self.slack_s * gain
        if pays and (alone or stop_s <= self.parameters.max_prefill_s):
            if stop_s > self.parameters.max_prefill_s:
                self.last = True
            self.take = len(undecided)
        return True


def tokens_of(requests: Sequence[Request]) -> int:
    """Of their prefills."""
    return sum(r.tokens for r in requests)
