"""LoongServe's manager: steps, dispatch and macro iterations, by hand."""

from tests.reference.elastic.hand import UNIT_S, iterations, settings, workload
from tests.reference.elastic.managers.loongserve import LoongServe
from tests.reference.elastic.simulate import simulate


def run(requests, fleet, **parameters):
    """Rows of `iterations`, and the results."""
    results = simulate(fleet, workload(requests), LoongServe(**parameters))
    return iterations(results), results


def test_a_request_alone():
    """All instances of a node for its prefill, and the one that kept its KV from then on."""
    rows, results = run([(0, 8, 3)], settings(4, 20, 2))
    assert rows == [
        ("prefill", 0, 8, [0, 1], [0]),
        ("decode", 8, 11.5625, [0], [0]),
        ("decode", 11.5625, 15.1875, [0], [0]),
    ]
    assert results.outcome == ["finished"] and results.scale_ups == 0


def test_decodes_go_on_for_max_wait_iterations():
    """Request 1 comes during the prefill of 0 and waits for two decode iterations of 7."""
    fleet = settings(2, 50, decode=7)
    rows, _ = run([(0, 8, 9), (1, 8, 1)], fleet, max_wait=2, decoding_s=7 * UNIT_S)
    assert rows[:4] == [
        ("prefill", 0, 8, [0, 1], [0]),
        ("decode", 8, 15, [0], [0]),
        ("decode", 15, 22, [0], [0]),
        ("decode", 22, 29, [0], [0]),
    ]
    assert rows[4] == ("prefill", 22, 22 + 4 + 8, [1], [1])
    assert rows[5] == ("decode", 29, 36, [0], [0])  # while the prefill runs


def test_a_prefill_that_is_worth_it_stops_the_decodes():
    """Request 0 has 4 tokens: stopping it costs (4 + 40 / 2) * 1 / 4, and saves (44 - 24) / 40 only.

    With 24 tokens it costs (4 + 4 / 2) / 24, and saves (8 - 6) / 4.
    """
    fleet = settings(2, 100, decode=7)
    rows, _ = run([(0, 8, 99), (1, 40, 1)], fleet, max_wait=3)
    assert ("prefill", 29, 73, [1], [1]) in rows and ("decode", 29, 36, [0], [0]) in rows
    rows, _ = run([(0, 8, 99), (1, 4, 1)], fleet, max_wait=23)
    begin = 8 + 23 * 7
    assert ("prefill", begin, begin + 6, [0, 1], [1]) in rows
    assert not [row for row in rows if row[0] == "decode" and begin <= row[1] < begin + 6]


def test_what_was_stopped_is_taken_in():
    """Prefilled where the KV of the stopped group lies, the new request decodes together with it."""
    rows, _ = run([(0, 8, 10), (1, 8, 10)], settings(1, 50, decode=7), max_wait=3)
    assert rows[:6] == [
        ("prefill", 0, 12, [0], [0]),
        ("decode", 12, 19, [0], [0]),
        ("decode", 19, 26, [0], [0]),
        ("decode", 26, 33, [0], [0]),
        ("prefill", 33, 45, [0], [1]),
        ("decode", 45, 52, [0], [1, 0]),
    ]


def test_compaction_makes_room_for_a_prefill():
    """At 34 instance 0 holds 11 tokens and 1 holds 6, which move in 6 / 4: no instance was empty."""
    rows, results = run([(0, 8, 9), (0, 2, 9), (1, 30, 1)], settings(2, 40, decode=7), max_wait=3)
    assert rows[:2] == [("prefill", 0, 6, [1], [1]), ("prefill", 0, 12, [0], [0])]
    assert [row for row in rows if row[1] == 34] == [
        ("decode", 34, 34 + 1.5 + 7, [0], [0, 1]),
        ("prefill", 34, 34 + 1.5 + 4 + 30, [1], [2]),
    ]
    assert (results.migrations, results.migrated_tokens) == (1, 6)


def test_the_latest_request_is_paused_when_pools_run_full():
    """At 22 instance 1 holds 3 + 4 tokens of two requests, 0 the 7 of request 2, which gives them up."""
    rows, results = run([(6, 2, 4), (6, 3, 3), (6, 7, 2)], settings(2, 8, decode=7), max_wait=2)
    assert rows == [
        ("prefill", 6, 15, [1], [1, 0]),
        ("prefill", 6, 17, [0], [2]),
        ("decode", 15, 22, [1], [1, 0]),
        ("decode", 22, 29, [0, 1], [1, 0]),
        ("decode", 29, 36, [0, 1], [0]),
        ("prefill", 36, 44, [0, 1], [2]),  # of its prompt and of the token that it had
    ]
    assert (results.scale_ups, results.pauses) == (1, 1)
    assert results.first_token_s[2] == 17 * UNIT_S and results.finish_s[2] == 44 * UNIT_S


def test_without_scale_up_a_full_group_is_computed_again():
    """At 20.5 request 1 fills instance 0, the only one of its group; it is paused, and admitted with 2."""
    requests = [(0, 2, 1), (6, 7, 3), (9, 4, 1)]
    rows, results = run(requests, settings(2, 8, decode=7), max_wait=2, scale_up=False)
    assert rows == [
        ("prefill", 0, 5, [0, 1], [0]),
        ("prefill", 6, 13.5, [0, 1], [1]),
        ("decode", 13.5, 20.5, [0], [1]),
        ("prefill", 20.5, 31, [0, 1], [1, 2]),
    ]
    assert (results.scale_ups, results.pauses) == (0, 1)
    rows, results = run(requests, settings(2, 8, decode=7), max_wait=2)
    assert (results.scale_ups, results.pauses) == (1, 0)


def test_idle_instances_do_short_prefills_until_the_long_one_ends():
    """At 16 the prefill of 4 tokens has ended, that of 14 ends at 26: 4 + 6 units are left, but not 4 + 7."""
    requests = [(0, 8, 1), (1, 14, 1), (1, 4, 1), (9, 6, 1)]
    rows, _ = run(requests, settings(2, 16))
    assert rows == [
        ("prefill", 0, 8, [0, 1], [0]),
        ("prefill", 8, 16, [1], [2]),
        ("prefill", 8, 26, [0], [1]),
        ("prefill", 16, 26, [1], [3]),
    ]
    rows, _ = run([*requests[:3], (9, 7, 1)], settings(2, 16))
    assert rows[3] == ("prefill", 26, 26 + 4 + 3.5, [0, 1], [3])


def test_requests_that_fit_go_ahead_of_one_that_does_not():
    """Request 1 must wait for 0 to end. Once 2 has gone ahead of it, 3 may not, but where 2 may."""
    requests = [(0, 8, 20), (1, 75, 1), (2, 4, 1), (80, 4, 1)]
    for out_of_order, order in ((0, [0, 1, 2, 3]), (1, [0, 2, 1, 3]), (2, [0, 2, 3, 1])):
        _, results = run(requests, settings(2, 40, decode=7), max_wait=3, out_of_order=out_of_order)
        assert sorted(range(4), key=lambda r: (results.first_token_s[r], r)) == order


def test_a_request_that_fits_is_served_even_if_it_needs_the_whole_fleet():
    rows, results = run([(0, 29, 11), (0, 30, 11)], settings(4, 10))
    assert results.outcome == ["finished", "rejected"]
    assert max(len(row[3]) for row in rows) == 4
