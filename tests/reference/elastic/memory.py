"""The memory test: do requests fit until each has ended, if none is added?"""

from collections.abc import Sequence

from tests.reference.elastic.fleet import Fleet
from tests.reference.elastic.request import Group, Request


def fits(groups: Sequence[Group], waiting: Sequence[Request], capacity: int) -> bool:
    """LightLLM's test of the requests of `groups` (in order of number) and of some that wait."""
    pairs = [(r.prompt + r.out, max(0, r.output - r.out - 1)) for group in groups for r in group.requests]
    pairs += [(r.prompt + r.out + 1, max(0, r.output - r.out - 2)) for r in waiting]
    pairs.sort(key=lambda pair: -pair[1])  # stable
    for i in range(1, len(pairs) + 1):
        held = sum(pair[0] for pair in pairs[:i])
        if pairs[i - 1][1] * i + held > capacity:
            return False
    return True


def in_groups(fleet: Fleet) -> list[Request]:
    """By number of group, then place."""
    return [r for group in fleet.groups for r in group.requests]


def latest(requests: Sequence[Request]) -> Request:
    """The one with the largest number, which is paused first."""
    return max(requests, key=lambda r: r.index)
