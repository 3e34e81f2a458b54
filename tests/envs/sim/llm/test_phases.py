"""Phases of requests: what each of them did, on which replica, from its arrival to its end."""

import numpy as np
import pytest

from servegym.agents.heuristics import make_router
from servegym.envs.scenario import load_scenario
from servegym.envs.sim.llm.log import ENTRY, ITERATION, PREEMPTION, RECOMPUTE, IterationLog
from servegym.envs.sim.llm.phases import AGAIN, DECODE, MOVING, PREFILL, WAITING, phases_of
from servegym.envs.sim.llm.simulate import OUTCOMES, Results

NAN = np.nan
FINISHED, CANCELLED, LOST = range(len(OUTCOMES))


def results(rows: list[tuple[float, float, float, int, int]]) -> Results:
    """Of (arrival, finish, cancelled, replica, outcome)."""
    arrival_s, finish_s, cancelled_s, replica, outcome = map(np.array, zip(*rows, strict=True))
    zero = np.zeros(len(rows), int)
    return Results(
        arrival_s=arrival_s,
        prompt_tokens=zero + 20,
        output_tokens=zero + 3,
        replica=replica,
        scheduled_s=arrival_s,
        first_token_s=arrival_s,
        finish_s=finish_s,
        preemptions=zero,
        hit_tokens=zero,
        outcome=outcome,
        cancelled_s=cancelled_s,
        retries=zero,
        migrations=zero,
    )


def log(
    batches: list[tuple[float, float, int, list[tuple[int, int, int, bool]]]],
    preemptions: list[tuple[float, int, int]],
) -> IterationLog:
    """Of (start, end, replica, [(request, tokens, computed, is_prefill)]) and (time, replica, request)."""
    iterations, entries = np.zeros(len(batches), ITERATION), []
    for iteration, (start_s, end_s, replica, served) in zip(iterations, batches, strict=True):
        iteration["start_s"], iteration["end_s"], iteration["replica"] = start_s, end_s, replica
        iteration["first_entry"], iteration["num_entries"] = len(entries), len(served)
        entries += [(request, tokens, computed, 0, prefill) for request, tokens, computed, prefill in served]
    lost = [(*preemption, RECOMPUTE) for preemption in preemptions]
    return IterationLog.sorted(iterations, np.array(entries, ENTRY), np.array(lost, PREEMPTION))


def lives(outcome: Results, recorded: IterationLog) -> dict[int, list[tuple[int, int, float, float]]]:
    """By request its phases: kind, replica, start, end."""
    found: dict[int, list[tuple[int, int, float, float]]] = {}
    for phase in phases_of(outcome, recorded):
        life = (int(phase["kind"]), int(phase["replica"]), float(phase["start_s"]), float(phase["end_s"]))
        found.setdefault(int(phase["request"]), []).append(life)
    return found


def test_a_preemption_in_the_middle_of_a_decode():
    batches = [
        (1.0, 2.0, 0, [(0, 20, 0, True), (1, 10, 0, True)]),
        (2.0, 3.0, 0, [(0, 1, 20, False), (1, 10, 10, True)]),  # the second chunk of a prefill
        (3.0, 4.0, 0, [(0, 1, 21, False)]),
        (4.0, 5.0, 0, [(0, 1, 22, False), (1, 20, 0, True)]),
        (5.0, 6.0, 0, [(1, 1, 20, False)]),
    ]
    found = lives(
        results([(0.5, 5.0, NAN, 0, FINISHED), (1.0, 6.0, NAN, 0, FINISHED)]), log(batches, [(3.0, 0, 1)])
    )
    assert found[0] == [(WAITING, 0, 0.5, 1.0), (PREFILL, 0, 1.0, 2.0), (DECODE, 0, 2.0, 5.0)]
    assert found[1] == [
        (PREFILL, 0, 1.0, 3.0),
        (AGAIN, 0, 3.0, 4.0),
        (PREFILL, 0, 4.0, 5.0),
        (DECODE, 0, 5.0, 6.0),
    ]


def test_a_request_that_is_left_out_of_an_iteration_keeps_its_phase():
    batches = [
        (0.0, 1.0, 0, [(0, 20, 0, True)]),
        (1.0, 2.0, 0, [(1, 20, 0, True)]),
        (2.0, 3.0, 0, [(0, 1, 20, False), (1, 1, 20, False)]),
    ]
    found = lives(results([(0.0, 3.0, NAN, 0, FINISHED), (0.5, 3.0, NAN, 0, FINISHED)]), log(batches, []))
    assert found[0] == [(PREFILL, 0, 0.0, 2.0), (DECODE, 0, 2.0, 3.0)]


def test_on_another_replica_with_its_work_and_without():
    batches = [
        (0.0, 1.0, 0, [(0, 20, 0, True), (1, 20, 0, True)]),
        (1.5, 2.0, 1, [(0, 1, 20, False), (1, 20, 0, True)]),
    ]
    found = lives(results([(0.0, 2.0, NAN, 1, FINISHED), (0.0, 2.0, NAN, 1, FINISHED)]), log(batches, []))
    assert found[0] == [(PREFILL, 0, 0.0, 1.0), (MOVING, 1, 1.0, 1.5), (DECODE, 1, 1.5, 2.0)]
    assert found[1] == [(PREFILL, 0, 0.0, 1.0), (AGAIN, 1, 1.0, 1.5), (PREFILL, 1, 1.5, 2.0)]


def test_requests_that_do_not_finish():
    """Cancelled in the queue, when preempted, on the way, while decoding; lost; and one that never came."""
    batches = [
        (0.0, 1.0, 0, [(1, 20, 0, True), (2, 20, 0, True), (3, 20, 0, True), (4, 20, 0, True)]),
        (1.0, 2.0, 0, [(3, 1, 20, False)]),
    ]
    rows = [(0.5, NAN, 1.5, 1, CANCELLED), (0.0, NAN, 1.5, 0, CANCELLED), (0.0, NAN, 1.2, 1, CANCELLED)]
    rows += [(0.0, NAN, 2.0, 0, CANCELLED), (0.0, NAN, NAN, 0, LOST), (NAN, NAN, NAN, -1, CANCELLED)]
    found = lives(results(rows), log(batches, [(1.0, 0, 1)]))
    assert found == {
        0: [(WAITING, 1, 0.5, 1.5)],
        1: [(PREFILL, 0, 0.0, 1.0), (AGAIN, 0, 1.0, 1.5)],
        2: [(PREFILL, 0, 0.0, 1.0), (MOVING, 1, 1.0, 1.2)],
        3: [(PREFILL, 0, 0.0, 1.0), (DECODE, 0, 1.0, 2.0)],
        4: [(PREFILL, 0, 0.0, 1.0)],
    }


@pytest.mark.parametrize(
    "words",
    [
        ("scenario.engine.num_kv_blocks=900",),
        (
            "scenario.fleet.replicas=null",
            "scenario.fleet.pools=[{replicas:2,role:prefill},{replicas:2,role:decode}]",
            "scenario.fleet.link_bytes_per_s=1e10",
            "scenario.fleet.failures=[{replica:2,time_s:0.8,until_s:1.5}]",
            "scenario.workload.clients.cancel_share=0.5",
            "scenario.workload.clients.mean_patience_s=1",
        ),
    ],
)
def test_phases_follow_each_other_from_arrival_to_end(words: tuple[str, ...]):
    """And hold every iteration of their kind; what happened to a request shows in them."""
    small = ("scenario.fleet.replicas=2", "scenario.workload.rate_rps=30", "scenario.workload.test_s=20")
    scenario = load_scenario("generated_8xh100", (*small, *words))
    outcome = scenario.simulate(scenario.traffic.test_workload(3), make_router("random"), log=True)
    assert outcome.log is not None
    phases = phases_of(outcome, outcome.log)
    same = phases["request"][1:] == phases["request"][:-1]
    np.testing.assert_array_equal(phases["start_s"][1:][same], phases["end_s"][:-1][same])
    first, last = np.append(True, ~same), np.append(~same, True)
    assert len(phases[first]) == len(outcome.arrival_s)
    np.testing.assert_array_equal(phases["start_s"][first], outcome.arrival_s)
    ended_s = np.fmax(outcome.finish_s, outcome.cancelled_s)
    np.testing.assert_allclose(phases["end_s"][last], ended_s, rtol=1e-12)
    again = np.bincount(phases["request"][phases["kind"] == AGAIN], minlength=len(outcome.arrival_s))
    assert (again > 0).sum() > 0
    assert (again <= outcome.preemptions + outcome.retries).all()

    iterations, entries = outcome.log.iterations, outcome.log.entries
    index = np.repeat(np.arange(len(iterations)), iterations["num_entries"])
    for request in range(0, len(outcome.arrival_s), 7):
        mine = phases[phases["request"] == request]
        for entry in np.flatnonzero(entries["request"] == request):
            iteration = iterations[index[entry]]
            at = mine[(mine["start_s"] <= iteration["start_s"]) & (iteration["start_s"] < mine["end_s"])]
            assert at["kind"].tolist() == [PREFILL if entries["is_prefill"][entry] else DECODE]
            assert at["replica"].tolist() == [iteration["replica"]]
            assert at["end_s"] >= iteration["end_s"]
