"""Parts of a fixed number of instances that know nothing of each other: continuous batching in each."""

from dataclasses import dataclass, field

from tests.reference.elastic.fleet import Fleet
from tests.reference.elastic.memory import fits, latest
from tests.reference.elastic.placement import UNLIMITED
from tests.reference.elastic.request import Group, Request


@dataclass
class Part:
    """Consecutive instances, and what is theirs."""

    instances: list[int]
    requests: set[int] = field(default_factory=set)  # that belong to it, by index
    groups: list[Group] = field(default_factory=list)  # the older first
    wait: int = 0


class FixedParallelism:
    """LoongServe's artifact with `use_fixed_sp`: requests go to parts in turn."""

    def __init__(
        self, degree: int, max_requests: int = 1024, max_tokens: int = 500_000, max_wait: int = 10
    ) -> None:
        self.degree = degree
        self.max_requests = max_requests
        self.max_tokens = max_tokens
        self.max_wait = max_wait
        self.parts: list[Part] = []
        self.turns = 0

    def act(self, fleet: Fleet) -> None:
        """At an instant at which something happened."""
        if not self.parts:
            starts = range(0, fleet.num_instances, self.degree)
            self.parts = [Part(list(range(start, start + self.degree))) for start in starts]
        self.assign(fleet)
        for part in self.parts:
            if not any(fleet.runs(i) for i in part.instances):
                self.run(fleet, part)

    def assign(self, fleet: Fleet) -> None:
        """Requests that have just come."""
        for r in list(fleet.queue):
            if any(r.index in part.requests for part in self.parts):
                continue
            if r.prompt + r.output > fleet.capacity * self.degree:
                fleet.reject(r)
            else:
                self.parts[self.turns % len(self.parts)].requests.add(r.index)
                self.turns += 1

    def run(self, fleet: Fleet, part: Part) -> None:
        """One iteration of a part that rests, if there is anything to do."""
        while True:
            part.groups = [group for group in part.groups if group in fleet.groups]
            if len(part.groups) == 2:
                fleet.merge(part.groups[0], part.groups.pop())
            if not part.groups or part.wait >= self.max_wait:
                admitted = self.admitted(fleet, part)
                if part.groups:
                    part.wait = 0
                if admitted:
                    part.groups.append(fleet.prefill(admitted, part.instances, striped_kv=True))
                    return
            if not part.groups:
                return
            (group,) = part.groups
            if max(fleet.free(i) for i in part.instances) >= len(group.requests):
                added = [i for i in part.instances if i not in group.members]
                fleet.decode(group, added, master_batch=UNLIMITED, fullest_first=False)
                part.wait += 1
                return
            fleet.pause(latest(group.requests))
            part.wait = 0

    def admitted(self, fleet: Fleet, part: Part) -> list[Request]:
        """The first of its requests that wait, as far as they fit."""
        chosen: list[Request] = []
        present = sum(len(group.requests) for group in part.groups)
        for r in fleet.queue:
            if r.index not in part.requests:
                continue
            more = [*chosen, r]
            share = sum(-(-m.tokens // self.degree) for m in more)
            if not (
                present + len(more) <= self.max_requests
                and fits(part.groups, more, fleet.capacity * self.degree)
                and (sum(m.tokens for m in more) <= self.max_tokens or not chosen)
                and share + max(fleet.used[i] for i in part.instances) <= fleet.capacity
            ):
                break
            chosen = more
        return chosen
