"""The memory test."""

from tests.reference.elastic.hand import fleet_with, settings
from tests.reference.elastic.memory import fits


def test_requests_that_wait():
    """(held, rest) = (11, 8) and (6, 2): 11 + 8 before, 17 + 2 * 2 tokens when the second ends."""
    _, requests = fleet_with([(5, 4), (10, 10)], settings(2, 50))
    assert fits([], requests, 21)
    assert not fits([], requests, 20)
    assert fits([], requests[1:], 19) and not fits([], requests[1:], 18)
    assert fits([], [], 0)


def test_requests_of_groups_hold_less_and_come_first():
    """In the group (11, 8); waiting (6, 8): 11 + 8 = 19, then 17 + 16. The other way round 6 + 8 first."""
    fleet, (decoding, waiting) = fleet_with([(10, 10), (5, 10)], settings(2, 50))
    group = fleet.prefill([decoding], [0])
    decoding.out = 1
    assert fits([group], [waiting], 33) and not fits([group], [waiting], 32)
    waiting.output = 1  # (6, 0): 11 + 8, then 17
    assert fits([group], [waiting], 19) and not fits([group], [waiting], 18)
