"""Parts of a fixed degree, by hand."""

from tests.reference.elastic.hand import iterations, settings, workload
from tests.reference.elastic.managers.fixed_parallelism import FixedParallelism
from tests.reference.elastic.simulate import simulate


def run(requests, fleet, **parameters):
    """Rows of `iterations`, and the results."""
    results = simulate(fleet, workload(requests), FixedParallelism(**parameters))
    return iterations(results), results


def test_parts_take_turns():
    """Request 1 is too long for a part (11 + 10 > 20) and takes no turn."""
    rows, results = run([(0, 8, 1), (0, 11, 10), (1, 8, 1), (2, 8, 1)], settings(4, 10), degree=2)
    assert rows == [
        ("prefill", 0, 8, [0, 1], [0]),
        ("prefill", 1, 9, [2, 3], [2]),
        ("prefill", 8, 16, [0, 1], [3]),
    ]
    assert results.outcome == ["finished", "rejected", "finished", "finished"]


def test_the_least_used_instance_is_the_master():
    """7 tokens lie as 4 and 3; then 4 and 4. Its one token leaves request 1 on instance 0 alone."""
    rows, results = run([(0, 7, 3)], settings(2, 20), degree=2)
    assert rows == [
        ("prefill", 0, 7.5, [0, 1], [0]),
        ("decode", 7.5, 7.5 + 3 + 4 / 16 + 1, [0, 1], [0]),
        ("decode", 11.75, 11.75 + 3 + 5 / 16 + 1, [0, 1], [0]),
    ]
    assert results.scale_ups == 0
    rows, results = run([(0, 1, 3)], settings(2, 20), degree=2)
    assert rows[1] == ("decode", 4.5, 4.5 + 3 + 1 / 16 + 1, [0, 1], [0])
    assert results.scale_ups == 1  # instance 1 was free after the prefill


def test_prefills_between_max_wait_decodes():
    """Request 1 comes during the prefill of 0, and joins it after two decodes."""
    rows, _ = run([(0, 8, 9), (1, 8, 2)], settings(1, 50, decode=7), degree=1, max_wait=2)
    assert rows[:6] == [
        ("prefill", 0, 12, [0], [0]),
        ("decode", 12, 19, [0], [0]),
        ("decode", 19, 26, [0], [0]),
        ("prefill", 26, 38, [0], [1]),
        ("decode", 38, 45, [0], [0, 1]),
        ("decode", 45, 52, [0], [0]),
    ]


def test_the_latest_is_paused_where_no_instance_has_room_for_all():
    """1 + 2 + 4 tokens lie as 4 and 3: two more fit on instance 1, but not three."""
    fleet = settings(2, 5, decode=7)
    rows, results = run([(0, 1, 2), (0, 2, 2), (0, 4, 2)], fleet, degree=2)
    assert rows == [
        ("prefill", 0, 7.5, [0, 1], [0, 1, 2]),
        ("decode", 7.5, 14.5, [0, 1], [0, 1]),
        ("prefill", 14.5, 21, [0, 1], [2]),  # 4 of its prompt and 1 that it had
    ]
    assert results.pauses == 1


def test_limits_of_a_prefill():
    """At most 2 requests, or 10 tokens; one alone may be longer."""
    three = [(0, 4, 1), (0, 4, 1), (0, 4, 1)]
    rows, _ = run(three, settings(1, 50), degree=1, max_requests=2)
    assert [row[4] for row in rows] == [[0, 1], [2]]
    rows, _ = run([(0, 12, 1), *three], settings(1, 50), degree=1, max_tokens=10)
    assert [row[4] for row in rows] == [[0], [1, 2], [3]]


def test_striped_kv_must_have_room_on_each_instance():
    """ceil(1 / 4) = 1 token of each on the fullest."""
    rows, _ = run([(0, 1, 1)] * 4, settings(4, 3), degree=4)
    assert [row[4] for row in rows] == [[0, 1, 2], [3]]
