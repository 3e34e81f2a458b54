"""Each action once, by hand."""

import pytest

from servegym.costmodels.errors import InputError
from tests.reference.elastic.hand import UNIT_S, end, fleet_with, settings
from tests.reference.elastic.placement import UNLIMITED, masters


def striped_group(capacity: int, **changes: float):
    """Five requests on instances 0 and 1, which hold 7 and 4 tokens of them; its prefill has ended."""
    fleet, requests = fleet_with(
        [(3, 9), (3, 9), (2, 9), (2, 9), (1, 9)], settings(4, capacity, 2, **changes)
    )
    group = fleet.prefill(requests, [0, 1], striped_kv=True)
    assert end(fleet, 0) == 4 + 11 / 2
    assert fleet.used == [7, 4, 0, 0]
    return fleet, requests, group


def placed(fleet, request):
    return {i: tokens for (index, i), tokens in fleet.kv.items() if index == request.index}


def test_packed_tokens_fill_the_fullest_instance_first():
    """Request 0 leaves room for 4 beside it, which the next takes; instance 3 gets the rest."""
    fleet, (first, second, third) = fleet_with([(6, 3), (8, 1), (5, 5)], settings(4, 10, 2))
    fleet.prefill([first], [2])
    assert end(fleet, 0) == 4 + 6
    fleet.prefill([second, third], [3, 2], 5 * UNIT_S)
    assert placed(fleet, second) == {2: 4, 3: 4} and placed(fleet, third) == {3: 5}
    assert end(fleet, 1) == (10 + 5) + (4 + 13 / 2)
    assert second.outcome == "finished" and second.first_token_s == second.finish_s == fleet.now
    assert fleet.used == [0, 0, 6, 5]
    assert [sorted(group.members) for group in fleet.groups] == [[2], [3]]


def test_striped_tokens_lie_evenly_and_in_the_order_given():
    fleet, (request,) = fleet_with([(10, 2)], settings(4, 10, 2))
    fleet.prefill([request], [3, 0, 2, 1], striped_kv=True)
    assert placed(fleet, request) == {3: 3, 0: 3, 2: 2, 1: 2}
    assert end(fleet, 0) == 16 + 10 / 4


def test_instances_without_kv_are_free_after_a_prefill():
    fleet, (request,) = fleet_with([(6, 2)], settings(2, 10))
    group = fleet.prefill([request], [0, 1])
    assert group.members == {0, 1}
    end(fleet, 0)
    assert group.members == {0} and request.out == 1 and fleet.used == [6, 0]


def test_several_masters():
    """At least 2 each: the fullest takes 2, the other 3; it attends to 4 + 3 tokens, the first to 9."""
    fleet, requests, group = striped_group(10)
    fleet.decode(group, master_batch=2, fullest_first=True)
    assert fleet.used == [9, 7, 0, 0]
    assert placed(fleet, requests[1]) == {0: 3, 1: 1} and placed(fleet, requests[2]) == {0: 1, 1: 2}
    assert end(fleet, 0) == 9.5 + (2 + 3) + 9 / 16 + 1


def test_one_master():
    fleet, _, group = striped_group(10)
    fleet.decode(group, master_batch=UNLIMITED, fullest_first=False)
    assert fleet.used == [7, 9, 0, 0]
    assert end(fleet, 0) == 9.5 + (2 + 5) + 9 / 16 + 1


def test_what_no_master_has_taken_goes_to_those_with_room():
    """Instance 1 takes its half of 5, 0 the 2 it has room for; the last goes to 1 as well."""
    assert masters(5, [0, 1], {0: 7, 1: 4}, 9, 1, False) == [(1, 3), (0, 2)]
    fleet, requests, group = striped_group(9)
    fleet.decode(group, master_batch=1, fullest_first=False)
    assert fleet.used == [9, 7, 0, 0]
    assert placed(fleet, requests[2]) == {0: 1, 1: 2} and placed(fleet, requests[3]) == {0: 2, 1: 1}


def test_a_full_master_takes_nothing():
    assert masters(3, [0, 1, 2], {0: 9, 1: 4, 2: 8}, 9, 2, True) == [(0, 0), (2, 1), (1, 2)]
    assert masters(7, [0, 1], {0: 9, 1: 4}, 9, 2, True) == [(0, 0), (1, 5)]  # no room for two


def test_scale_up_leaves_kv_where_it_is():
    """Instance 2 stands in the other node. Once nobody has KV on 1, it ceases to be a member."""
    fleet, _, group = striped_group(10)
    fleet.decode(group, [2], master_batch=1, fullest_first=True)
    assert fleet.used == [8, 6, 2, 0] and group.members == {0, 1, 2} and fleet.scale_ups == 1
    assert end(fleet, 0) == 9.5 + (2 + 2) + 8 / 16 + 4
    assert fleet.migrate(group, 1, 2, 6) == 6 * UNIT_S  # between nodes; 1.5 within one
    assert fleet.used == [8, 0, 8, 0] and group.members == {0, 2}
    assert (fleet.migrations, fleet.migrated_tokens) == (1, 6)


def test_migration_takes_from_requests_in_order():
    fleet, requests, group = striped_group(10)
    assert fleet.migrate(group, 0, 1, 3) == 3 / 4 * UNIT_S
    assert placed(fleet, requests[0]) == {1: 3} and placed(fleet, requests[1]) == {0: 1, 1: 2}
    assert group.members == {0, 1} and fleet.used == [4, 7, 0, 0]


def test_decodes_that_always_take_the_same_time():
    fleet, _, group = striped_group(10, decode=7)
    fleet.decode(group, [2, 3], 2 * UNIT_S, master_batch=1, fullest_first=True)
    assert end(fleet, 0) == 9.5 + 2 + 7


def test_merged_groups_and_numbers():
    """The smallest number that is free is the next."""
    fleet, (a, b, c, d) = fleet_with([(4, 5)] * 4, settings(4, 10))
    for instance, request in enumerate((a, b, c)):
        fleet.prefill([request], [instance])
    for number in range(3):
        end(fleet, number)
    fleet.merge(fleet.groups[2], fleet.groups[0])
    assert [(group.number, group.requests) for group in fleet.groups] == [(1, [b]), (2, [c, a])]
    assert fleet.groups[1].members == {0, 2}
    assert fleet.prefill([d], [0]).number == 0  # its KV stays while another group runs there
    assert fleet.used[0] == 8
    with pytest.raises(InputError, match="decode: instance 0 runs"):
        fleet.decode(fleet.groups[2], master_batch=1, fullest_first=True)


def test_a_paused_request_computes_its_output_again():
    fleet, requests, group = striped_group(10)
    fleet.decode(group, master_batch=2, fullest_first=True)
    end(fleet, 0)
    late = requests[4]
    fleet.pause(late)
    fleet.pause(requests[3])
    assert fleet.queue == [requests[3], late] and late.tokens == 1 + 2
    assert fleet.used == [9 - 1 - 1, 7 - 1 - 1 - 1, 0, 0] and fleet.pauses == 2
    for request in requests[:3]:
        fleet.pause(request)
    assert fleet.groups == [] and fleet.used == [0, 0, 0, 0]
    fleet.prefill([late], [0])
    end(fleet, 0)
    assert late.out == 3 and late.first_token_s == 9.5 * UNIT_S


@pytest.mark.parametrize(
    "action, why",
    [
        (lambda f, r, g: f.prefill([], [2]), "prefill: no request"),
        (lambda f, r, g: f.prefill([r[5]], []), "prefill: no instance"),
        (lambda f, r, g: f.prefill([r[0]], [2]), "prefill: request 0 does not wait"),
        (lambda f, r, g: f.prefill([r[5]], [2, 2]), "prefill: an instance twice"),
        (lambda f, r, g: f.prefill([r[5]], [0]), "prefill: no room"),
        (lambda f, r, g: f.prefill([r[5], r[6]], [2, 0], striped_kv=True), "prefill: no room on instance 0"),
        (lambda f, r, g: f.prefill([r[7]], [3]), "prefill: instance 3 runs"),
        (lambda f, r, g: f.decode(g, [0], master_batch=1, fullest_first=True), "decode: instance 0 is a"),
        (lambda f, r, g: f.decode(g, [3], master_batch=1, fullest_first=True), "decode: instance 3 runs"),
        (lambda f, r, g: f.merge(g, g), "merge: group 0 with itself"),
        (lambda f, r, g: f.merge(g, f.groups[1]), "merge: group 1 is not at rest"),
        (lambda f, r, g: f.migrate(g, 0, 3, 1), "migrate: instance 3 runs"),
        (lambda f, r, g: f.migrate(g, 0, 1, 7), "migrate: no room on instance 1"),
        (lambda f, r, g: f.migrate(g, 0, 1, 8), "migrate: 8 tokens of instance 0"),
        (lambda f, r, g: f.pause(r[5]), "pause: request 5 is in no group at rest"),
        (lambda f, r, g: f.reject(r[0]), "reject: request 0 does not wait"),
    ],
)
def test_what_a_manager_must_not_do(action, why):
    lengths = [(3, 9), (3, 9), (2, 9), (2, 9), (1, 9), (6, 2), (4, 2), (1, 2), (9, 2)]
    fleet, requests = fleet_with(lengths, settings(4, 10, 2))
    group = fleet.prefill(requests[:5], [0, 1], striped_kv=True)
    end(fleet, 0)
    fleet.prefill([requests[8]], [3])
    with pytest.raises(InputError, match=why):
        action(fleet, requests, group)


def test_a_group_without_room_cannot_decode():
    fleet, requests = fleet_with([(9, 3), (9, 3)], settings(2, 10))
    group = fleet.prefill(requests, [0, 1])
    end(fleet, 0)
    fleet.decode(group, master_batch=1, fullest_first=True)
    end(fleet, 0)
    with pytest.raises(InputError, match="decode: no room"):
        fleet.decode(group, master_batch=1, fullest_first=True)
