"""LoongServe's macro iteration: admitted requests are prefilled while other groups decode."""

from collections.abc import Sequence

from tests.reference.elastic.fleet import Fleet
from tests.reference.elastic.managers.batching import Batch, batching
from tests.reference.elastic.managers.dispatch import room_for_kv, tokens_of
from tests.reference.elastic.managers.parameters import Parameters
from tests.reference.elastic.managers.scaling import Decode, decode, one_has_room, scaling_plan
from tests.reference.elastic.managers.times import expected_s, expected_sums_s
from tests.reference.elastic.memory import fits, in_groups
from tests.reference.elastic.placement import by_falling_used
from tests.reference.elastic.request import Group, Request
from tests.reference.elastic.seconds import migrate_s


class MacroIteration:
    """From the dispatch of `admitted` until nothing runs."""

    def __init__(self, fleet: Fleet, parameters: Parameters, admitted: Sequence[Request]) -> None:
        self.fleet = fleet
        self.parameters = parameters
        self.admitted = admitted
        self.sum_tokens = tokens_of(admitted)
        self.sum_squares = sum(r.tokens * r.tokens for r in admitted)
        self.pending: list[Group] = []
        self.available: list[int] = []
        self.prefill_ends_s: list[float] = []  # of its prefills
        delay = self.compact()
        self.make_room()
        self.gain_instances()
        plan = self.plan_decodes()
        batches = batching(fleet, admitted, self.available, parameters.one_batch)
        for planned in plan:
            decode(fleet, parameters, planned.group, planned.added, delay)
        for batch in batches:
            self.prefill(batch, delay)
        self.end_s = (fleet.now + delay) + max(batch.seconds for batch in batches)

    def prefill(self, batch: Batch, delay: float) -> None:
        """Packed; as one of this macro iteration."""
        group = self.fleet.prefill(batch.requests, batch.instances, delay)
        assert group.end_s is not None
        self.prefill_ends_s.append(group.end_s)

    # -- before it runs

    def seconds(self, instances: int) -> float:
        """Of all admitted requests in one batch."""
        return expected_sums_s(self.fleet, instances, self.sum_tokens, self.sum_squares)

    def compact(self) -> float:
        """KV moves off instances that are used for little, as far as that pays; the seconds it takes."""
        fleet = self.fleet
        used = fleet.used
        target = room_for_kv(fleet)
        full = fleet.num_instances - target  # instances that would do
        filled = by_falling_used([i for i in fleet.instances if used[i] > 0], dict(enumerate(used)))
        if not self.parameters.scale_up or full >= len(filled) or self.sum_tokens > target * fleet.capacity:
            return 0.0
        delay, at = 0.0, full - 1
        idle = fleet.num_instances - len(filled)
        while idle < target:
            source = filled.pop()
            saved = self.seconds(idle) - self.seconds(idle + 1)
            if self.sum_tokens <= idle * fleet.capacity and saved < migrate_s(
                fleet.cost, False, fleet.used[source]
            ):
                break
            while fleet.used[source] > 0:
                to = filled[at]
                tokens = min(fleet.used[source], fleet.free(to))
                if tokens == 0:
                    at -= 1
                    continue
                if self.group_at(source) is not self.group_at(to):
                    fleet.merge(self.group_at(to), self.group_at(source))
                delay += fleet.migrate(self.group_at(source), source, to, tokens)
            idle += 1
        return delay

    def group_at(self, instance: int) -> Group:
        """The one with KV there: between macro iterations there is no other."""
        (group,) = [group for group in self.fleet.groups if instance in group.members]
        return group

    def make_room(self) -> None:
        """Groups become pending until their free slots and the empty instances hold what is admitted."""
        fleet = self.fleet
        self.available = [i for i in fleet.instances if fleet.used[i] == 0]
        lack = self.sum_tokens - len(self.available) * fleet.capacity
        self.lacked = lack > 0
        while lack > 0:
            group = max(self.decoding(), key=lambda g: (self.room(g), g.number))
            lack -= self.room(group)
            self.suspend(group)

    def gain_instances(self) -> None:
        """Groups become pending whose instances help the prefill more than the stop harms them."""
        groups = self.decoding()
        if self.lacked:
            groups = sorted(groups, key=lambda g: (self.room(g), g.number))
        gain = sum(1 / r.tokens for r in self.admitted)
        for group in groups:
            idle, more = len(self.available), len(group.members)
            speedup = (self.seconds(idle) - self.seconds(idle + more)) * gain
            requests = len(group.requests)
            outputs = sum(r.out for r in group.requests)
            slowdown = self.seconds(idle + more) * requests * (requests / outputs)
            if speedup >= slowdown:
                self.suspend(group)

    def decoding(self) -> list[Group]:
        """Groups that are not pending, by number."""
        return [group for group in self.fleet.groups if group not in self.pending]

    def room(self, group: Group) -> int:
        """What its members could still hold."""
        held = sum(self.fleet.held(group, i) for i in group.members)
        return self.fleet.capacity * len(group.members) - held

    def suspend(self, group: Group) -> None:
        """It becomes pending."""
        self.pending.append(group)
        self.available += sorted(group.members)

    def plan_decodes(self) -> list[Decode]:
        """Of the groups that are not pending, with as few instances taken off the prefill as can be."""
        fleet = self.fleet
        left = list(self.available)
        spare: list[int] = []
        while True:
            plan = scaling_plan(fleet, self.parameters, self.decoding(), spare)
            if plan is not None:
                self.available = left
                return plan
            if len(left) == 0 or self.sum_tokens > sum(fleet.free(i) for i in left[:-1]):
                break
            spare.append(left.pop())
        self.pending = list(fleet.groups)
        self.available = fleet.instances
        return []

    # -- while it runs

    @property
    def prefills(self) -> bool:
        """One of its prefills runs."""
        return max(self.prefill_ends_s) > self.fleet.now

    def go_on(self) -> None:
        """Groups that rest decode, and what is idle is used for short prefills."""
        fleet = self.fleet
        for group in self.decoding():
            if group.at_rest and self.has_room(group):
                decode(fleet, self.parameters, group, [], 0.0)
        spare = self.spare()
        requests = self.fillers(spare) if spare else []
        if requests:
            for batch in batching(fleet, requests, spare, self.parameters.one_batch):
                self.prefill(batch, 0.0)

    def has_room(self, group: Group) -> bool:
        """For another token of each request."""
        if not self.parameters.scale_up:
            return one_has_room(self.fleet, group)
        return sum(self.fleet.free(i) for i in group.members) >= len(group.requests)

    def spare(self) -> list[int]:
        """Instances that run for nobody and belong to pending groups at most."""
        taken = {i for group in self.decoding() for i in group.members}
        return [i for i in self.fleet.instances if i not in taken and not self.fleet.runs(i)]

    def fillers(self, spare: Sequence[int]) -> list[Request]:
        """Waiting requests whose prefill on `spare` ends in time."""
        fleet, parameters = self.fleet, self.parameters
        room = sum(fleet.free(i) for i in spare)
        chosen: list[Request] = []
        for r in fleet.queue:
            more = [*chosen, r]
            if (
                len(in_groups(fleet)) + len(more) <= parameters.max_requests
                and fits([], more, room)
                and tokens_of(more) <= parameters.max_tokens
                and expected_s(fleet, len(spare), more) <= self.end_s - fleet.now
            ):
                chosen = more
        return chosen

    # -- when nothing runs

    def finish(self) -> None:
        """Groups that share an instance become one, so that each instance has one again."""
        fleet = self.fleet
        for group in self.decoding():
            while group in fleet.groups:
                sharing = [g for g in fleet.groups if g is not group and g.members & group.members]
                if not sharing:
                    break
                fleet.merge(group, sharing[0])
