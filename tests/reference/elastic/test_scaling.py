"""The scaling plan."""

from tests.reference.elastic.hand import end, fleet_with, settings
from tests.reference.elastic.managers.parameters import Parameters
from tests.reference.elastic.managers.scaling import scaling_plan


def groups_with(capacity: int, *groups: list[int], instances: int = 6):
    """Group `g` has prompts on instance `g`, packed."""
    lengths = [(n, 50) for lengths in groups for n in lengths]
    fleet, requests = fleet_with(lengths, settings(instances, capacity))
    left = iter(requests)
    for number, lengths in enumerate(groups):
        fleet.prefill([next(left) for _ in lengths], [number])
    for number in range(len(groups)):
        end(fleet, number)
    return fleet


def planned(plan):
    return [(each.group.number, [r.index for r in each.group.requests], each.added) for each in plan]


def test_a_group_without_room_takes_in_the_one_with_most():
    """idle: 10 - 9 - 2 = -1, 10 - 4 - 1 = 5, 10 - 2 - 1 = 7."""
    fleet = groups_with(10, [5, 4], [4], [2])
    plan = scaling_plan(fleet, Parameters(), fleet.groups, [3, 4])
    assert planned(plan) == [(0, [0, 1, 3], []), (1, [2], [])]
    assert fleet.groups[0].members == {0, 2}


def test_spare_instances_come_after_groups():
    """idle: -2 and -1; the worse first, which gets an instance, and is taken in by the other then."""
    fleet = groups_with(10, [5, 4], [5, 4, 1])
    plan = scaling_plan(fleet, Parameters(), fleet.groups, [3, 4])
    assert planned(plan) == [(0, [0, 1, 2, 3, 4], [3])]


def test_of_equals_the_larger_number_is_taken():
    fleet = groups_with(10, [5, 4], [4], [4])
    plan = scaling_plan(fleet, Parameters(), fleet.groups, [])
    assert planned(plan) == [(0, [0, 1, 3], []), (1, [2], [])]


def test_without_success_nothing_is_done():
    """idle: -1 and 0."""
    fleet = groups_with(10, [5, 4], [9])
    assert scaling_plan(fleet, Parameters(), fleet.groups, []) is None
    assert len(fleet.groups) == 2
    assert planned(scaling_plan(fleet, Parameters(), fleet.groups, [2])) == [(0, [0, 1, 2], [2])]


def test_masters_for_computing():
    """Seven requests of at most 2 (3 for a start): 7 > 2, 3 > 2, then 7 // 3 = 2; 5 left for 2 masters is
    2 again, and the last would have 3, so it is not the last."""
    fleet = groups_with(100, [1] * 7)
    plan = scaling_plan(fleet, Parameters(master_batch=2), fleet.groups, [1, 2, 3, 4, 5])
    assert planned(plan) == [(0, list(range(7)), [5, 4, 3])]
    fleet.decode(fleet.groups[0], plan[0].added, master_batch=2, fullest_first=True)
    assert fleet.log[-1].minibatches == [2, 2, 2, 1]


def test_no_spare_ones_left_for_computing():
    """The first group takes both; a full instance calls for none."""
    fleet = groups_with(100, [1] * 5, [1] * 5)
    plan = scaling_plan(fleet, Parameters(master_batch=1), fleet.groups, [2, 3])
    assert planned(plan) == [(0, list(range(5)), [3, 2]), (1, list(range(5, 10)), [])]
    fleet = groups_with(10, [5, 5], [1, 1])
    plan = scaling_plan(fleet, Parameters(master_batch=1), fleet.groups, [2, 3])
    assert planned(plan) == [(0, [0, 1, 2, 3], [3, 2])]


def test_one_master_without_scale_up():
    """Group 0 lacks room for two, and after a pause has it; group 1 has room for both."""
    fleet = groups_with(10, [4, 5], [4, 4])
    plan = scaling_plan(fleet, Parameters(scale_up=False), fleet.groups, [2])
    assert planned(plan) == [(0, [0], []), (1, [2, 3], [])]
    assert [r.index for r in fleet.queue] == [1] and fleet.pauses == 1


def test_a_full_group_is_paused_without_scale_up():
    fleet = groups_with(10, [10], [10])
    assert scaling_plan(fleet, Parameters(scale_up=False), fleet.groups, [2]) == []
    assert [r.index for r in fleet.queue] == [1, 0] and fleet.groups == []
