"""Which event comes first, and how it all ends."""

from tests.reference.elastic.hand import UNIT_S, settings, workload
from tests.reference.elastic.placement import UNLIMITED
from tests.reference.elastic.simulate import simulate


class EachAlone:
    """Every request on the instance of its number; notes what it sees when it is called."""

    def __init__(self, rejects: int | None = None) -> None:
        self.seen: list = []
        self.rejects = rejects

    def act(self, fleet) -> None:
        self.seen.append((fleet.now / UNIT_S, [r.index for r in fleet.queue], len(fleet.ended)))
        for group in list(fleet.groups):
            if group.at_rest and all(fleet.free(i) > 0 for i in group.members):
                fleet.decode(group, master_batch=UNLIMITED, fullest_first=True)
        for r in list(fleet.queue):
            if r.index == self.rejects:
                fleet.reject(r)
            elif not fleet.runs(r.index) and fleet.used[r.index] == 0:
                fleet.prefill([r], [r.index])


def test_the_manager_is_called_once_an_instant():
    """Request 0 runs from 0 to 8 and from there to 11.3125; 2 and 3 come when its prefill ends."""
    manager = EachAlone()
    results = simulate(settings(4, 10), workload([(0, 4, 2), (1, 6, 1), (8, 2, 1), (8, 2, 1)]), manager)
    assert manager.seen == [
        (0, [0], 0),
        (1, [1], 0),
        (8, [2, 3], 0),
        (11, [], 1),
        (11.3125, [], 2),
        (14, [], 4),
    ]
    assert results.first_token_s == [8 * UNIT_S, 11 * UNIT_S, 14 * UNIT_S, 14 * UNIT_S]
    assert results.finish_s == [11.3125 * UNIT_S, 11 * UNIT_S, 14 * UNIT_S, 14 * UNIT_S]
    assert (results.prefills, results.decodes, results.scale_ups, results.pauses) == (4, 1, 0, 0)


def test_a_request_longer_than_the_fleet_is_rejected_when_it_comes():
    """p + o = 20 fits into 2 x 10, 21 does not; a manager may reject as well."""
    manager = EachAlone(rejects=2)
    results = simulate(settings(2, 10), workload([(0, 9, 12), (1, 9, 11), (2, 5, 5)]), manager)
    assert results.outcome == ["rejected", "unserved", "rejected"]
    assert [row[:2] for row in manager.seen[:3]] == [(0, []), (1, [1]), (2, [2])]


def test_requests_that_nobody_serves():
    class Idle:
        def act(self, fleet) -> None:
            pass

    results = simulate(settings(2, 10), workload([(0, 4, 2), (3, 30, 2)]), Idle())
    assert results.outcome == ["unserved", "rejected"] and results.log == []
