"""What must hold after every action, counted from scratch."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.reference.elastic.fleet import Fleet


def check(fleet: "Fleet") -> None:
    """No KV token is lost or held twice, pools hold, a request is in one place, an instance runs for one."""
    check_places(fleet)
    check_kv(fleet)
    check_groups(fleet)


def check_places(fleet: "Fleet") -> None:
    """A request waits, is in one group, or has ended."""
    places = [r.index for r in fleet.queue]
    places += [r.index for group in fleet.groups for r in group.requests]
    places += [r.index for r in fleet.ended]
    assert len(places) == len(set(places)), "a request is in two places"


def check_kv(fleet: "Fleet") -> None:
    """Requests of groups hold their tokens (and that of the iteration that runs), others none."""
    assert all(tokens > 0 for tokens in fleet.kv.values()), "negative KV"
    assert all(0 <= used <= fleet.capacity for used in fleet.used), "a pool runs over"
    total = {r.index: 0 for group in fleet.groups for r in group.requests}
    for (index, _), tokens in fleet.kv.items():
        assert index in total, "KV of nobody"
        total[index] += tokens
    for group in fleet.groups:
        for r in group.requests:
            expected = r.prompt + r.out - (1 if group.at_rest else 0)
            assert total[r.index] == expected, "KV tokens lost or held twice"
            assert r.out < r.output, "it should have finished"


def check_groups(fleet: "Fleet") -> None:
    """Numbers differ; KV is on members only, at rest on each of them; running ones share no instance."""
    numbers = [group.number for group in fleet.groups]
    assert numbers == sorted(set(numbers)), "numbers of groups"
    running: set[int] = set()
    for group in fleet.groups:
        assert group.requests and group.members, "an empty group"
        holders = {i for r in group.requests for i in fleet.instances if (r.index, i) in fleet.kv}
        assert holders <= group.members, "KV outside the members"
        if group.at_rest:
            assert holders == group.members, "a member without KV"
        else:
            assert not running & group.members, "an instance runs for two groups"
            running |= group.members
