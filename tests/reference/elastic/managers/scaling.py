"""LoongServe's scaling plan: which groups decode, on which instances, so that all have room."""

from collections.abc import Sequence
from dataclasses import dataclass

from tests.reference.elastic.fleet import Fleet
from tests.reference.elastic.managers.parameters import Parameters
from tests.reference.elastic.memory import latest
from tests.reference.elastic.placement import UNLIMITED, by_falling_used
from tests.reference.elastic.request import Group


@dataclass
class Decode:
    """A group that is to decode, and the instances that join it."""

    group: Group
    added: list[int]


def scaling_plan(
    fleet: Fleet, parameters: Parameters, groups: Sequence[Group], spare: Sequence[int]
) -> list[Decode] | None:
    """By number of group, merged ones left out; None, and nothing done, without success."""
    if not parameters.scale_up:
        return one_master_each(fleet, groups)
    spare = list(spare)
    idle = {group: slots(fleet, group) for group in groups}
    if sum(idle.values()) + sum(fleet.free(i) for i in spare) < 0:
        return None
    got: dict[Group, list[int]] = {group: [] for group in groups}
    for short in sorted((g for g in groups if idle[g] < 0), key=lambda g: (idle[g], g.number)):
        while idle[short] < 0:
            others = [g for g in idle if idle[g] >= 0]
            if not others:
                break
            taken = max(others, key=lambda g: (idle[g], g.number))
            fleet.merge(short, taken)
            idle[short] += idle.pop(taken)
            got[short] += got.pop(taken)
        while idle[short] < 0:
            instance = spare.pop(0)
            got[short].append(instance)
            idle[short] += fleet.free(instance)
    left = sorted(got, key=lambda g: g.number)
    return [Decode(g, got[g] + for_computing(fleet, parameters, g, got[g], spare)) for g in left]


def slots(fleet: Fleet, group: Group) -> int:
    """idle(g): free on its members, once each request has its next token."""
    return sum(fleet.free(i) for i in group.members) - len(group.requests)


def for_computing(
    fleet: Fleet, parameters: Parameters, group: Group, got: Sequence[int], spare: list[int]
) -> list[int]:
    """Taken off `spare`, so that no master has more than its batch."""
    used = dict(enumerate(fleet.used))
    walked = by_falling_used([*group.members, *got], used)
    added = []
    left, j = len(group.requests), 0
    while j < len(walked):
        free = fleet.free(walked[j])
        while free > 0 and left // (len(walked) - j) > parameters.master_batch and spare:
            added.append(spare.pop())
            walked.append(added[-1])
        left -= min(left, free, max(left // (len(walked) - j), parameters.master_batch))
        j += 1
    return added


def one_master_each(fleet: Fleet, groups: Sequence[Group]) -> list[Decode]:
    """Without scale-up: requests are paused until the master has room for the rest."""
    groups = list(groups)  # some may cease to be
    for group in groups:
        while group.requests and not one_has_room(fleet, group):
            fleet.pause(latest(group.requests))
    return [Decode(group, []) for group in groups if group.requests]


def one_has_room(fleet: Fleet, group: Group) -> bool:
    """The fullest member that has any room has it for all requests of the group."""
    used = dict(enumerate(fleet.used))
    for i in by_falling_used(sorted(group.members), used):
        if fleet.free(i) > 0:
            return fleet.free(i) >= len(group.requests)
    return False


def decode(fleet: Fleet, parameters: Parameters, group: Group, added: Sequence[int], delay: float) -> None:
    """As LoongServe does: the fullest members are masters first."""
    master_batch = parameters.master_batch if parameters.scale_up else UNLIMITED
    fleet.decode(group, added, delay, master_batch=master_batch, fullest_first=True)
