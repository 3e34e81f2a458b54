"""Plans under vLLM's own scheduler: whatever is planned, everybody gets their tokens."""

import random

import pytest
from vllm.v1.core.sched.request_queue import create_request_queue

from tests.serving.vllm.policies import Failing, RandomPlans, ShortestFirst, Slow
from tests.serving.vllm.stepping import free_blocks, make_request, make_scheduler, run, token


def workload(seed, shares_prefixes=False, num_requests=60):
    draw = random.Random(seed)
    bases = [[token(1000 + i, -1 - k) for k in range(96)] for i in range(4)]
    requests = []
    for number in range(num_requests):
        prompt, outputs = draw.randint(5, 200), draw.randint(1, 40)
        tokens = [token(number, -1 - i) for i in range(prompt)]
        if shares_prefixes:
            tokens = (draw.choice(bases) + tokens)[:prompt]
        requests.append((draw.randint(0, 100), make_request(number, tokens, outputs)))
    return sorted(requests, key=lambda each: each[0])


def expected(requests):
    return {
        int(each.request_id): [token(int(each.request_id), i) for i in range(each.max_tokens)]
        for _, each in requests
    }


@pytest.mark.parametrize("prefix_caching", [False, True])
@pytest.mark.parametrize("scheduling_policy", ["fcfs", "priority"])
@pytest.mark.parametrize("in_flight", [0, 1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_random_plans_lose_no_token_and_no_block(seed, in_flight, scheduling_policy, prefix_caching):
    """in_flight: 0 with the synchronous scheduler, 1 with the asynchronous, 2 as in a pipeline."""
    policy = RandomPlans(seed)
    scheduler = make_scheduler(
        policy, is_async=in_flight > 0, scheduling_policy=scheduling_policy, prefix_caching=prefix_caching
    )
    free = free_blocks(scheduler)
    requests = workload(seed, prefix_caching)
    stepped = run(scheduler, requests, in_flight=in_flight)
    assert stepped.outputs == expected(requests)
    assert len(stepped.finished) == 60
    assert free_blocks(scheduler) == free
    assert not scheduler.requests and not scheduler.running and not scheduler.waiting
    assert scheduler.policy.value == scheduling_policy
    assert type(scheduler.waiting) is type(create_request_queue(scheduler.policy))
    assert policy.preempted > 5 and policy.decode_only > 20
    assert stepped.num_preemptions >= policy.preempted // 2
    assert not scheduler.engine.fallbacks and not scheduler.unreadable


@pytest.mark.parametrize("is_async", [False, True])
def test_queues_keep_their_own_order(is_async):
    """Preempted ones in front, others as they came; those who run as they were admitted."""
    scheduler = make_scheduler(RandomPlans(2), is_async=is_async)
    before = {"waiting": [], "running": []}

    def compare(step):
        now = {"waiting": list(scheduler.waiting), "running": list(scheduler.running)}
        stayed = [each for each in before["running"] if each in now["running"]]
        assert now["running"][: len(stayed)] == stayed
        stayed = [each for each in before["waiting"] if each in now["waiting"]]
        preempted = [each for each in now["waiting"] if each in before["running"]]
        assert now["waiting"][: len(preempted) + len(stayed)] == preempted + stayed
        before.update(now)

    run(scheduler, workload(2), in_flight=int(is_async), each_step=compare)
    assert scheduler.engine.policy.preempted > 5


@pytest.mark.parametrize("scheduling_policy", ["fcfs", "priority"])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_failing_policy_is_vllms_own_scheduler(is_async, scheduling_policy):
    options = {"is_async": is_async, "scheduling_policy": scheduling_policy}
    stock = run(make_scheduler(**options), workload(1), in_flight=int(is_async))
    scheduler = make_scheduler(Failing(), **options)
    stepped = run(scheduler, workload(1), in_flight=int(is_async))
    assert stepped == stock
    fallbacks = scheduler.engine.fallbacks
    assert fallbacks["raised"] > 10 and fallbacks["malformed"] > 50
    assert fallbacks.total() == scheduler.engine.plans


def test_a_late_policy_is_vllms_own_scheduler():
    stock = run(make_scheduler(), [make_request(number, 50, 5) for number in range(20)])
    scheduler = make_scheduler(Slow(0.02), deadline_s=0.001)
    stepped = run(scheduler, [make_request(number, 50, 5) for number in range(20)])
    assert stepped == stock
    assert scheduler.engine.fallbacks == {"late": scheduler.engine.plans}


def test_a_state_that_cannot_be_read_is_left_to_vllm(monkeypatch, caplog):
    def unreadable(*args):
        raise AttributeError("'Request' object has no attribute 'arrival_time'")

    monkeypatch.setattr("servegym.agents.serving.plugins.vllm.look", unreadable)
    scheduler = make_scheduler(ShortestFirst())
    stepped = run(scheduler, [make_request(number, 50, 5) for number in range(20)])
    assert stepped == run(make_scheduler(), [make_request(number, 50, 5) for number in range(20)])
    assert scheduler.unreadable > 1
    assert sum("cannot be read" in record.message for record in caplog.records) == 1
