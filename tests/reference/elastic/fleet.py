"""The state of the simulation, and what a manager may do: six actions."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

from servegym.costmodels.errors import InputError
from tests.reference.elastic.checks import check
from tests.reference.elastic.placement import masters, packed, striped
from tests.reference.elastic.request import FINISHED, REJECTED, Group, Request
from tests.reference.elastic.seconds import decode_s, migrate_s, prefill_s


@dataclass
class Iteration:
    """One entry of the log, written when it starts."""

    start_s: float  # when the manager started it, before any delay
    end_s: float
    kind: str
    group: int
    instances: list[int]
    requests: list[int]
    minibatches: list[int]  # by instance of a decode, in the order of the walk


def checked(action: Callable[..., Any]) -> Callable[..., Any]:
    """The invariants hold after it."""

    @wraps(action)
    def act(self: "Fleet", *args: Any, **kwargs: Any) -> Any:
        result = action(self, *args, **kwargs)
        check(self)
        return result

    return act


class Fleet:
    """`settings` has the numbers of an `ElasticFleet`."""

    def __init__(self, settings: Any) -> None:
        self.num_instances: int = settings.num_instances
        self.capacity: int = settings.kv_tokens
        self.per_node: int = settings.instances_per_node
        self.cost = settings.cost
        self.now = 0.0
        self.kv: dict[tuple[int, int], int] = {}  # by request and instance, never 0
        self.groups: list[Group] = []  # by number
        self.queue: list[Request] = []
        self.ended: list[Request] = []  # finished and rejected ones
        self.log: list[Iteration] = []
        self.scale_ups = self.pauses = self.migrations = self.migrated_tokens = 0

    # -- what a manager sees

    @property
    def instances(self) -> list[int]:
        """All."""
        return list(range(self.num_instances))

    @property
    def used(self) -> list[int]:
        """KV tokens by instance."""
        used = [0] * self.num_instances
        for (_, instance), tokens in self.kv.items():
            used[instance] += tokens
        return used

    def free(self, instance: int) -> int:
        """Tokens that still fit."""
        return self.capacity - self.used[instance]

    def runs(self, instance: int) -> bool:
        """For a group."""
        return any(instance in group.members for group in self.groups if not group.at_rest)

    @property
    def anything_runs(self) -> bool:
        """An iteration of any group."""
        return not all(group.at_rest for group in self.groups)

    def held(self, group: Group, instance: int) -> int:
        """KV tokens of the group there."""
        return sum(self.kv.get((r.index, instance), 0) for r in group.requests)

    def crosses(self, instances: Iterable[int]) -> bool:
        """They stand in more than one node."""
        return len({i // self.per_node for i in instances}) > 1

    # -- actions

    @checked
    def prefill(
        self,
        requests: Sequence[Request],
        instances: Sequence[int],
        delay: float = 0.0,
        striped_kv: bool = False,
    ) -> Group:
        """A new group of waiting requests."""
        require("prefill", bool(requests), "no request")
        require("prefill", bool(instances), "no instance")
        require("prefill", len(set(instances)) == len(instances), "an instance twice")
        require("prefill", len({r.index for r in requests}) == len(requests), "a request twice")
        for r in requests:
            require("prefill", r in self.queue, f"request {r.index} does not wait")
        for i in instances:
            require("prefill", not self.runs(i), f"instance {i} runs")
        lengths = [r.tokens for r in requests]
        used = dict(enumerate(self.used))
        if striped_kv:
            places = striped(lengths, instances)
        else:
            places = packed(lengths, instances, used, self.capacity)
        placed = sum(sum(place.values()) for place in places)
        require("prefill", placed == sum(lengths), "no room")
        for i in instances:
            new = sum(place.get(i, 0) for place in places)
            require("prefill", new <= self.free(i), f"no room on instance {i}")
        for r, place in zip(requests, places, strict=True):
            self.queue.remove(r)
            for i, tokens in place.items():
                self.add_kv(r, i, tokens)
        squares = sum(n * n for n in lengths)
        seconds = prefill_s(self.cost, self.crosses(instances), len(instances), sum(lengths), squares)
        number = min(set(range(len(self.groups) + 1)) - {group.number for group in self.groups})
        group = Group(number, list(requests), set(instances), (self.now + delay) + seconds)
        self.groups = sorted([*self.groups, group], key=lambda g: g.number)
        self.write_log("prefill", group, [])
        return group

    @checked
    def decode(
        self,
        group: Group,
        added: Sequence[int] = (),
        delay: float = 0.0,
        *,
        master_batch: int,
        fullest_first: bool,
    ) -> None:
        """One iteration of a group, with `added` instances from now on."""
        require("decode", group in self.groups and group.at_rest, f"group {group.number} is not at rest")
        require("decode", len(set(added)) == len(added), "an instance twice")
        for i in added:
            require("decode", i not in group.members, f"instance {i} is a member already")
        members = sorted([*group.members, *added])
        for i in members:
            require("decode", not self.runs(i), f"instance {i} runs")
        used = dict(enumerate(self.used))
        requests = len(group.requests)
        sizes = masters(requests, members, used, self.capacity, master_batch, fullest_first)
        require("decode", sum(size for _, size in sizes) == requests, "no room")
        owners = [i for i, size in sizes for _ in range(size)]
        for r, i in zip(group.requests, owners, strict=True):
            self.add_kv(r, i, 1)
        group.members = set(members)
        self.scale_ups += bool(added)
        kv = {i: self.held(group, i) for i in members}
        seconds = decode_s(self.cost, self.crosses(members), [size for _, size in sizes], kv)
        group.end_s = (self.now + delay) + seconds
        self.write_log("decode", group, [size for _, size in sizes])

    @checked
    def merge(self, a: Group, b: Group) -> None:
        """`b` becomes part of `a`."""
        require("merge", a is not b, f"group {a.number} with itself")
        for group in (a, b):
            require("merge", group in self.groups and group.at_rest, f"group {group.number} is not at rest")
        a.requests += b.requests
        a.members |= b.members
        b.requests, b.members = [], set()
        self.groups.remove(b)

    @checked
    def migrate(self, group: Group, source: int, target: int, tokens: int) -> float:
        """KV of a group from one instance to another; the seconds it takes."""
        require("migrate", group in self.groups and group.at_rest, f"group {group.number} is not at rest")
        require("migrate", source != target, f"from instance {source} to itself")
        for i in (source, target):
            require("migrate", not self.runs(i), f"instance {i} runs")
        require("migrate", 0 < tokens <= self.held(group, source), f"{tokens} tokens of instance {source}")
        require("migrate", tokens <= self.free(target), f"no room on instance {target}")
        left = tokens
        for r in group.requests:
            part = min(left, self.kv.get((r.index, source), 0))
            self.add_kv(r, source, -part)
            self.add_kv(r, target, part)
            left -= part
        group.members.add(target)
        self.scale_down(group)
        self.migrations += 1
        self.migrated_tokens += tokens
        return migrate_s(self.cost, self.crosses([source, target]), tokens)

    @checked
    def pause(self, request: Request) -> None:
        """It gives up its KV and waits again, ahead of all others."""
        groups = [group for group in self.groups if request in group.requests and group.at_rest]
        require("pause", len(groups) == 1, f"request {request.index} is in no group at rest")
        self.leave(groups[0], request)
        self.queue.insert(0, request)
        self.scale_down(groups[0])
        self.pauses += 1

    @checked
    def reject(self, request: Request) -> None:
        """It waits no longer."""
        require("reject", request in self.queue, f"request {request.index} does not wait")
        self.queue.remove(request)
        self.end(request, REJECTED)

    # -- what happens by itself

    @checked
    def arrive(self, request: Request) -> None:
        """It waits, unless it could never be served."""
        if request.prompt + request.output > self.num_instances * self.capacity:
            self.end(request, REJECTED)
        else:
            self.queue.append(request)

    @checked
    def end_iteration(self, group: Group) -> None:
        """Each of its requests has one more output token."""
        group.end_s = None
        for r in list(group.requests):
            r.out += 1
            if r.out == 1:
                r.first_token_s = self.now
            if r.out == r.output:
                r.finish_s = self.now
                self.leave(group, r)
                self.end(r, FINISHED)
        self.scale_down(group)

    def end(self, request: Request, outcome: str) -> None:
        """For good."""
        request.outcome = outcome
        self.ended.append(request)

    def leave(self, group: Group, request: Request) -> None:
        """With its KV."""
        group.requests.remove(request)
        for i in self.instances:
            self.kv.pop((request.index, i), None)

    def scale_down(self, group: Group) -> None:
        """Members without KV of the group cease to be members; without requests it is no more."""
        group.members = {i for i in group.members if self.held(group, i) > 0}
        if not group.requests:
            self.groups.remove(group)

    def add_kv(self, request: Request, instance: int, tokens: int) -> None:
        """Tokens of a request come to an instance, or go (negative)."""
        total = self.kv.get((request.index, instance), 0) + tokens
        self.kv[request.index, instance] = total
        if total == 0:
            del self.kv[request.index, instance]

    def write_log(self, kind: str, group: Group, minibatches: list[int]) -> None:
        """The iteration that has just started."""
        assert group.end_s is not None
        indices = [r.index for r in group.requests]
        entry = Iteration(
            self.now, group.end_s, kind, group.number, sorted(group.members), indices, minibatches
        )
        self.log.append(entry)


def require(action: str, allowed: bool, why: str) -> None:
    """The simulation ends with an error that names the action."""
    if not allowed:
        raise InputError(f"{action}: {why}")
