"""vLLM's own scheduler as a witness: as recorded, and where it is installed once more in many more cases."""

from collections import Counter

import pytest

from tests.witness.iterations import Iteration, of_reference, of_simulator, of_vllm
from tests.witness.recording import Step, Witnessed, recorded


def test_the_simulator_schedules_as_vllm_did() -> None:
    """Every iteration: who, in which order, how many tokens after how many, hits, victims, blocks."""
    assert_simulator_equal(recorded())


def test_the_reference_schedules_as_vllm_did() -> None:
    assert_reference_equal(recorded())


@pytest.mark.slow  # half a minute, and most of it imports vLLM
def test_vllm_does_what_was_recorded(witnessed: list[Witnessed]) -> None:
    kept = recorded()
    for number, (then, now) in enumerate(zip(kept, witnessed, strict=False)):
        assert then.case == now.case
        assert_equal(of_vllm(then.steps), of_vllm(now.steps), f"case {number}")
        assert [step["free_blocks"] for step in then.steps] == [step["free_blocks"] for step in now.steps]


@pytest.mark.slow
def test_the_simulator_schedules_as_vllm_does(witnessed: list[Witnessed]) -> None:
    assert_simulator_equal(witnessed)


@pytest.mark.slow
def test_the_reference_schedules_as_vllm_does(witnessed: list[Witnessed]) -> None:
    assert_reference_equal(witnessed)


def assert_simulator_equal(witnessed: list[Witnessed]) -> None:
    """In all cases."""
    for number, (case, steps) in enumerate(witnessed):
        found = of_simulator(case, steps)
        assert_equal(found, of_vllm(steps), f"case {number}, {case['settings']}")


def assert_reference_equal(witnessed: list[Witnessed]) -> None:
    """In all cases."""
    for number, (case, steps) in enumerate(witnessed):
        assert_equal(of_reference(case), of_vllm(steps), f"case {number}, {case['settings']}")


def assert_equal(found: list[Iteration], expected: list[Iteration], case: str) -> None:
    """Fails at the first iteration that differs."""
    for ours, theirs in zip(found, expected, strict=False):
        assert ours == theirs, f"{case}\nours:   {ours}\nvLLM's: {theirs}"
    assert len(found) == len(expected), case


@pytest.mark.slow
def test_vllm_finishes_every_request_and_frees_every_block(witnessed: list[Witnessed]) -> None:
    for case, steps in witnessed:
        finished = [request for step in steps for request in step["finished"]]
        assert sorted(finished) == list(range(len(case["requests"])))
        assert steps[-1]["free_blocks"] == case["settings"]["num_kv_blocks"]
        for step in steps:
            tokens = sum(tokens for _, tokens, _ in step["scheduled"])
            assert tokens <= case["settings"]["max_num_batched_tokens"]


@pytest.mark.slow
def test_the_cases_reach_what_is_hard(witnessed: list[Witnessed]) -> None:
    """Agreement says little about what the cases never do."""
    cases_with: Counter[str] = Counter()
    for case, steps in witnessed:
        reached = _reached(steps)
        cases_with.update(reached)
        if "preemption" in reached:
            cases_with[f"preemption under {case['settings']['policy']}"] += 1
    for what, least in {
        "preemption": 80,
        "preemption under fcfs": 30,
        "preemption under priority": 30,
        "two preemptions at once": 10,
        "prefix hit": 120,
        "resumed on cached blocks": 40,
        "preempted by one behind it": 20,
        "prompt in chunks": 100,
        "idle": 80,
    }.items():
        assert cases_with[what] >= least, (what, cases_with[what])


def _reached(steps: list[Step]) -> set[str]:
    reached: set[str] = set()
    preempted_before: set[int] = set()
    last_order: list[int] = []
    for step in steps:
        order = [request for request, _, _ in step["scheduled"]]
        if step["preempted"]:
            reached.add("preemption")
        if len(step["preempted"]) > 1:
            reached.add("two preemptions at once")
        if any(hit for _, hit in step["admitted"]):
            reached.add("prefix hit")
        if any(hit and request in preempted_before for request, hit in step["admitted"]):
            reached.add("resumed on cached blocks")
        for victim in step["preempted"]:
            behind = last_order[last_order.index(victim) + 1 :] if victim in last_order else []
            if set(behind) & set(order):
                reached.add("preempted by one behind it")
        if any(computed and tokens > 1 for _, tokens, computed in step["scheduled"]):
            reached.add("prompt in chunks")
        if not order:
            reached.add("idle")
        preempted_before |= set(step["preempted"])
        last_order = order
    return reached
