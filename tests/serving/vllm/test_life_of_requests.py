"""What happens to requests beside plans: aborts, grammars, pauses, drafts, predictions."""

import random
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.request import RequestStatus

from tests.serving.vllm.policies import RandomPlans, ShortestFirst
from tests.serving.vllm.stepping import free_blocks, make_request, make_scheduler, run, token

ANYTHING = SimpleNamespace(accept_tokens=lambda request_id, tokens: True)


def some(num_requests, **parameters):
    draw = random.Random(3)
    return [
        make_request(number, draw.randint(5, 200), draw.randint(2, 40), **parameters)
        for number in range(num_requests)
    ]


def assert_complete(stepped, requests):
    for request in requests:
        number = int(request.request_id)
        assert stepped.outputs[number] == [token(number, i) for i in range(request.max_tokens)], number


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_aborted_requests_leave_and_nobody_else_does(is_async, seed):
    scheduler = make_scheduler(RandomPlans(seed), is_async=is_async, prefix_caching=True)
    free, draw, aborted = free_blocks(scheduler), random.Random(seed), set()

    def abort(step):
        if step % 7 == 6 and scheduler.requests:
            name = draw.choice(list(scheduler.requests))
            aborted.add(int(name))
            scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)

    requests = some(60)
    stepped = run(scheduler, requests, in_flight=int(is_async), each_step=abort)
    assert 10 < len(aborted) < 60
    assert_complete(stepped, [each for each in requests if int(each.request_id) not in aborted])
    assert not aborted & set(stepped.finished)
    assert free_blocks(scheduler) == free and not scheduler.requests
    assert not scheduler.engine.fallbacks and not scheduler.unreadable


@pytest.mark.parametrize("is_async", [False, True])
def test_requests_wait_for_their_grammars_and_nobody_waits_for_them(is_async):
    """Those with a grammar are the shortest: a policy that saw them would plan nobody else."""
    scheduler = make_scheduler(ShortestFirst(), is_async=is_async)
    constrained = [
        make_request(number, 5, 3, structured_outputs=StructuredOutputsParams(regex="a*"))
        for number in range(100, 104)
    ]
    grammars = [Future() for _ in constrained]
    for request, grammar in zip(constrained, grammars, strict=True):
        request.structured_output_request.grammar = grammar
    broken = constrained[-1]

    def compile_grammars(step):
        if step == 20:
            for grammar in grammars[:-1]:
                grammar.set_result(ANYTHING)
        if step == 30:
            grammars[-1].set_exception(ValueError("no such grammar"))

    others = some(30)
    stepped = run(scheduler, constrained + others, in_flight=int(is_async), each_step=compile_grammars)
    assert_complete(stepped, constrained[:-1] + others)
    for request in constrained[:-1]:
        first = next(i for i, step in enumerate(stepped.scheduled) if int(request.request_id) in step)
        assert 20 <= first <= 35
    assert stepped.outputs[int(broken.request_id)] == []
    assert stepped.finished[int(broken.request_id)] < 45 < len(stepped.scheduled) - 20
    assert all(stepped.scheduled[step] for step in range(20))
    assert not scheduler.engine.fallbacks and not scheduler.unreadable


@pytest.mark.parametrize("state", [PauseState.PAUSED_NEW, PauseState.PAUSED_ALL])
def test_a_paused_engine_asks_nobody(state):
    scheduler = make_scheduler(RandomPlans(0))
    plans = {}

    def pause(step):
        if step in (10, 30):
            scheduler.set_pause_state(state if step == 10 else PauseState.UNPAUSED)
            plans[step] = scheduler.engine.plans

    requests = some(40)
    stepped = run(
        scheduler, [(0, each) for each in requests] + [(31, make_request(99, 9, 9))], each_step=pause
    )
    assert plans[10] == plans[30] > 0
    if state == PauseState.PAUSED_ALL:
        assert not any(stepped.scheduled[10:30])
    assert_complete(stepped, requests)


@pytest.mark.parametrize("seed", range(2))
def test_drafts_are_not_taken_from_anybody(seed):
    scheduler = make_scheduler(RandomPlans(seed), num_drafts=3, num_blocks=60)
    free = free_blocks(scheduler)
    requests, schedule, verified = some(40), scheduler.schedule, []

    def noting():
        output = schedule()
        verified.append(sum(map(len, output.scheduled_spec_decode_tokens.values())))
        return output

    scheduler.schedule = noting
    stepped = run(scheduler, requests, drafts=random.Random(seed))
    assert sum(verified) > 200
    assert_complete(stepped, requests)
    assert free_blocks(scheduler) == free
    assert not scheduler.engine.fallbacks and not scheduler.unreadable


def test_all_drafts_are_verified_in_a_budget_of_decodes():
    """A plan counts a decode as a token; its drafts come on top."""

    class OnlyDecodes(ShortestFirst):
        def plan(self, state):
            decodes = sum(row[1] > 0 for row in state.running)
            return super().plan(state)._replace(token_budget=max(decodes, 1), prefill_chunk=1)

    scheduler = make_scheduler(OnlyDecodes(), num_drafts=3, num_blocks=60)
    schedule, counts = scheduler.schedule, []

    def noting():
        drafting = {each.request_id: len(each.spec_token_ids) for each in scheduler.running}
        output = schedule()
        waits = bool(scheduler.waiting)
        counts.extend(
            (output.num_scheduled_tokens.get(name), 1 + n) for name, n in drafting.items() if n and waits
        )
        return output

    scheduler.schedule = noting
    run(scheduler, [make_request(number, 4, 20) for number in range(20)], drafts=random.Random(1))
    assert len(counts) > 50
    assert all(given == due for given, due in counts)


@pytest.mark.parametrize("in_flight", [1, 2])
def test_a_policy_is_not_shown_who_can_be_given_nothing(in_flight):
    """Those whose last token is being computed; those preempted while one was, until it has come."""
    requests = some(60)
    for number, request in enumerate(requests):
        request.priority = number

    class Looking(ShortestFirst):
        num_stale = 0

        def plan(self, state):
            assert all(row[1] < requests[int(row[5])].max_tokens for row in state.running)
            assert not any(requests[int(row[5])].num_stale_output_tokens for row in state.waiting)
            self.num_stale += sum(each.num_stale_output_tokens > 0 for each in requests)
            return super().plan(state)._replace(preempt=(0,) if len(state.running) > 6 else ())

    scheduler = make_scheduler(Looking(), is_async=True)
    assert_complete(run(scheduler, requests, in_flight=in_flight), requests)
    assert not scheduler.engine.fallbacks and scheduler.engine.plans > 100
    assert in_flight == 1 or scheduler.engine.policy.num_stale > 10


def test_predictions_come_with_requests():
    seen = []

    class Noting(ShortestFirst):
        def plan(self, state):
            seen.append(state.waiting[:, 3].tolist())
            return super().plan(state)

    given = [{"predicted_output_tokens": value} for value in (12, 3.5, "7", "x", None, -1, float("nan"), [3])]
    requests = [make_request(i, 10, 2, extra_args=extra) for i, extra in enumerate([*given, {}, None])]
    run(make_scheduler(Noting()), requests)
    assert seen[0] == [12.0, 3.5, 7.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
