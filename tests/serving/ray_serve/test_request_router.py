"""ServegymRouter in a real Ray Serve: the policy decides, once for each request, and the books are right."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle

from servegym.agents.serving.artifact.load import load_artifact
from servegym.agents.serving.plugins.ray_serve import request_router, request_router_config
from servegym.agents.serving.routing.fleet_view import AVAILABLE, KV_USED_BLOCKS, RUNNING, SPEED
from servegym.agents.serving.routing.learned_router import LearnedRouter
from servegym.agents.serving.routing.router import LATE, NOT_A_NUMBER, RAISED
from servegym.agents.zoo import policy_folder
from servegym.costmodels.errors import InputError
from tests.serving.ray_serve import recordings
from tests.serving.ray_serve.conftest import (
    MAX_ONGOING,
    NUM_REPLICAS,
    SETTING,
    answers,
    new_handle,
    wait_until,
)
from tests.serving.ray_serve.engines import (
    Fastest,
    Late,
    NotANumber,
    Raising,
    ShortestBacklog,
    Unreadable,
)
from tests.serving.ray_serve.recording_router import RecordingRouter

ServeBy = Callable[..., RecordingRouter]


def all_ended(router: RecordingRouter, count: int) -> None:
    """Each of `count` requests was decided about once and has ended once, and nothing is left of them."""
    wait_until(lambda: len(router.outcomes) >= count)
    decided = {each.request.request_id for each in router.decisions}
    assert len(router.decisions) == count == len(decided)
    assert len(router.outcomes) == count == len({request_id for request_id, _ in router.outcomes})
    assert router.books.fleet.num_under_way == 0
    assert not router._in_transit and not router._ids


def test_requests_go_where_the_exported_policy_sends_them(
    handle: DeploymentHandle, serve_by: ServeBy
) -> None:
    router = serve_by()
    prompts = ["x" * int(size) for size in np.random.default_rng(0).integers(10, 20_000, 120)]
    responses = []
    for prompt in prompts:  # fewer at once than make a replica full: nobody is left out
        responses.append(handle.remote({"prompt": prompt}))
        if len(responses) >= MAX_ONGOING - 1:
            responses[1 - MAX_ONGOING].result(timeout_s=60)
    served = {each["request"]: each["replica"] for each in answers(responses)}
    policy = LearnedRouter(load_artifact(policy_folder("zoo:router")), SETTING)
    assert len(router.decisions) == len(prompts)
    for decided in router.decisions:
        scores = policy.scores(decided.features, decided.rows)
        assert decided.decision.fallback == ""
        assert decided.decision.replica == decided.names[int(scores.argmax())]
        assert served[decided.request.request_id] == decided.decision.replica
    assert [each.features[0] for each in router.decisions] == [-(-len(each) // 4) for each in prompts]
    assert len(set(served.values())) > 1
    all_ended(router, len(prompts))


def test_requests_that_come_at_once_see_each_other(handle: DeploymentHandle, serve_by: ServeBy) -> None:
    router = serve_by(ShortestBacklog())
    responses = [
        handle.remote({"prompt": "x" * 4000, "wait_s": 0.5}) for _ in range(NUM_REPLICAS * MAX_ONGOING)
    ]
    counts = Counter(each["replica"] for each in answers(responses))
    # Without those in transit in the books they would go to one replica until it has said that it has them.
    assert sorted(counts.values()) == [MAX_ONGOING] * NUM_REPLICAS
    all_ended(router, len(responses))


def test_routing_stats_reach_the_policy(handle: DeploymentHandle, serve_by: ServeBy) -> None:
    router = serve_by(Fastest())
    first = [handle.remote({"prompt": "x", "wait_s": 3.0}) for _ in range(MAX_ONGOING)]
    fastest = router.books.fleet.names[int(router.books.fleet.rows(router.books.clock())[:, SPEED].argmax())]
    i = router.books.fleet.index[fastest]
    wait_until(lambda: router.books.fleet.rows(router.books.clock())[i, RUNNING] == MAX_ONGOING)
    second = answers([handle.remote({"prompt": "x", "wait_s": 0.0})])
    assert {each["replica"] for each in answers(first)} == {fastest}
    rows, names = router.decisions[-1].rows, router.decisions[-1].names
    assert sorted(rows[:, KV_USED_BLOCKS]) == [100.0, 200.0, 300.0]
    assert np.array_equal(rows[:, KV_USED_BLOCKS], 100.0 * rows[:, SPEED])
    # The fastest was full, whether this router knew or was refused: the next best got it.
    assert second[0]["replica"] == names[int(np.where(rows[:, SPEED] == 2.0)[0][0])]


def test_no_replica_has_more_requests_than_it_allows(handle: DeploymentHandle, serve_by: ServeBy) -> None:
    router = serve_by(Fastest())
    responses = [handle.remote({"prompt": "x", "wait_s": 0.05}) for _ in range(60)]
    answered = answers(responses)
    assert max(each["ongoing"] for each in answered) == MAX_ONGOING
    assert len({each["request"] for each in answered}) == 60
    all_ended(router, 60)


def test_a_request_that_is_refused_is_decided_about_once(
    engines: str, handle: DeploymentHandle, serve_by: ServeBy
) -> None:
    first = serve_by(ShortestBacklog())
    other = new_handle(engines)
    router = recordings.made[-1]
    # The other handle asked the replicas when it was made, and does not know that they are full since.
    long = [handle.remote({"prompt": "x", "wait_s": 1.0}) for _ in range(NUM_REPLICAS * MAX_ONGOING)]
    wait_until(lambda: len(first.decisions) == len(long) and not first._in_transit)
    responses = [other.remote({"prompt": "x", "wait_s": 0.0}) for _ in range(5)]
    answered = answers(responses)
    answers(long)
    assert len(answered) == 5
    all_ended(router, 5)


@pytest.mark.parametrize(
    ("policy", "reason"), [(Raising(), RAISED), (NotANumber(), NOT_A_NUMBER), (Late(), LATE)], ids=str
)
def test_a_policy_that_fails_loses_nothing(
    handle: DeploymentHandle, serve_by: ServeBy, policy: object, reason: str
) -> None:
    router = serve_by(policy)
    responses = [handle.remote({"prompt": "x"}) for _ in range(12)]
    assert len(Counter(each["replica"] for each in answers(responses))) == NUM_REPLICAS
    assert [each.decision.fallback for each in router.decisions] == [reason] * len(router.decisions)
    assert {each.decision.policy for each in router.decisions} == {"least_loaded"}
    all_ended(router, 12)


def test_in_the_shadow_a_policy_does_not_act(handle: DeploymentHandle, serve_by: ServeBy) -> None:
    router = serve_by(Fastest(), shadow=True)
    answered = answers([handle.remote({"prompt": "x"}) for _ in range(9)])
    assert len(answered) == 9 and {each.decision.policy for each in router.decisions} == {"least_loaded"}
    fastest = {each.names[int(each.rows[:, SPEED].argmax())] for each in router.decisions}
    assert {each.decision.shadow for each in router.decisions} == fastest
    all_ended(router, 9)


def test_failures_and_cancellations_end_requests(handle: DeploymentHandle, serve_by: ServeBy) -> None:
    router = serve_by(ShortestBacklog())
    failing = [handle.remote({"prompt": "x", "fail": True}) for _ in range(3)]
    for response in failing:
        with pytest.raises(ValueError, match="this request fails"):
            response.result(timeout_s=60)
    wait_until(lambda: len(router.outcomes) == 3)
    given_up = [handle.remote({"prompt": "x", "wait_s": 30.0}) for _ in range(3)]
    wait_until(lambda: len(router.decisions) == 6 and not router._in_transit)
    for response in given_up:
        response.cancel()
    wait_until(lambda: len(router.outcomes) == 6)
    assert [ok for _, ok in router.outcomes[3:]] == [False] * 3
    all_ended(router, 6)


def test_callers_that_go_away_while_they_queue_leave_nothing_behind(
    handle: DeploymentHandle, serve_by: ServeBy
) -> None:
    router = serve_by(ShortestBacklog())
    running = [handle.remote({"prompt": "x", "wait_s": 1.5}) for _ in range(NUM_REPLICAS * MAX_ONGOING)]
    wait_until(lambda: len(router.decisions) == len(running) and not router._in_transit)
    queued = [handle.remote({"prompt": "x"}) for _ in range(8)]
    for response in queued:
        response.cancel()
    answers(running)
    answers([handle.remote({"prompt": "x"})])
    wait_until(lambda: router.books.fleet.num_under_way == 0)
    assert not router._in_transit and not router._ids


def test_a_stream_ends_when_its_last_token_has_come(handle: DeploymentHandle, serve_by: ServeBy) -> None:
    router = serve_by(ShortestBacklog())
    stream = handle.options(stream=True).stream.remote({"prompt": "x", "tokens": 20})
    iterator = iter(stream)
    assert next(iterator) == 0
    assert router.books.fleet.num_under_way == 1 and not router.outcomes
    assert list(iterator) == list(range(1, 20))
    all_ended(router, 1)


def test_calls_of_one_request_are_told_apart(handle: DeploymentHandle, serve_by: ServeBy) -> None:
    router = serve_by(ShortestBacklog())

    async def together() -> list[object]:
        # Within a request of Serve's, calls have its id: here two calls are given one.
        serve.context._serve_request_context.set(
            serve.context._RequestContext(request_id="same", _internal_request_id="")
        )
        return list(await asyncio.gather(*[handle.remote({"prompt": "x", "wait_s": 0.3}) for _ in range(2)]))

    assert len(asyncio.run(together())) == 2
    assert len({each.request.request_id for each in router.decisions}) == 2
    all_ended(router, 2)


def test_requests_that_are_refused_again_and_again_leave_nothing_behind(
    handle: DeploymentHandle, serve_by: ServeBy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all replicas say that they must not be chosen, Serve still sends requests where there is room."""
    router = serve_by(ShortestBacklog())
    monkeypatch.setattr(request_router, "tell", lambda books, name, stats: books.set_available(name, False))
    wait_until(lambda: not router.books.fleet.rows(router.books.clock())[:, AVAILABLE].any())
    count = 2 * NUM_REPLICAS * MAX_ONGOING  # so that Serve asks again for some
    answered = answers([handle.remote({"prompt": "x", "wait_s": 0.2}) for _ in range(count)])
    assert len(answered) == count <= router.num_refused
    assert not router.decisions
    wait_until(lambda: not router._ids)
    assert not router._in_transit and router.books.fleet.num_under_way == 0


def test_arguments_that_cannot_be_read_say_nothing(handle: DeploymentHandle, serve_by: ServeBy) -> None:
    router = serve_by(ShortestBacklog())
    answered = answers([handle.remote(Unreadable(wait_s=0.0)) for _ in range(3)])
    assert {each["replica"] for each in answered} == {each.decision.replica for each in router.decisions}
    assert [each.features[0] for each in router.decisions] == [1.0] * 3
    all_ended(router, 3)


def test_a_model_goes_where_it_is_loaded(handle: DeploymentHandle, serve_by: ServeBy) -> None:
    router = serve_by(ShortestBacklog())
    ask = handle.options(multiplexed_model_id="m1").with_model
    home = ask.remote({"prompt": "x"}).result(timeout_s=60)["replica"]
    replicas = lambda: router.curr_replicas.items()  # noqa: E731
    wait_until(
        lambda: any(r.unique_id == home and "m1" in each.multiplexed_model_ids for r, each in replicas())
    )
    for _ in range(3):
        assert ask.remote({"prompt": "x"}).result(timeout_s=60)["replica"] == home
    for decided in router.decisions[1:]:
        assert decided.ranked == (home,)


def test_a_replica_that_dies_is_replaced(handle: DeploymentHandle, serve_by: ServeBy) -> None:
    router = serve_by(ShortestBacklog())
    victim_id = next(iter(router.curr_replicas))
    before = set(router.books.fleet.names)
    actor = ray.get_actor(victim_id.to_full_id_str(), namespace="serve")
    answered, lost = [], 0
    for round_ in range(40):
        if round_ == 10:
            ray.kill(actor)
        for response in [handle.remote({"prompt": "x", "wait_s": 0.01}) for _ in range(3)]:
            try:
                answered.append(response.result(timeout_s=60))
            except ray.exceptions.RayActorError:
                lost += 1  # the replica had taken it: Serve cannot know whether it may be done twice
    assert lost <= MAX_ONGOING
    assert len(answered) + lost == 120
    wait_until(
        lambda: (
            len(router.books.fleet.names) == NUM_REPLICAS
            and victim_id.unique_id not in router.books.fleet.names
        )
    )
    newcomer = (set(router.books.fleet.names) - before).pop()
    late = answers([handle.remote({"prompt": "x" * 40, "wait_s": 0.1}) for _ in range(9)])
    assert newcomer in {each["replica"] for each in late}
    wait_until(lambda: router.books.fleet.num_under_way == 0)


def test_an_unusable_artifact_is_refused_at_deployment_and_survived_later(
    tmp_path: Path, handle: DeploymentHandle, caplog: pytest.LogCaptureFixture
) -> None:
    config = tmp_path / "serving.json"
    config.write_text(json.dumps({"policy": {"artifact": str(tmp_path / "missing")}}))
    with pytest.raises(InputError, match="missing"):
        request_router_config(str(config))
    assert (
        request_router_config({"policy": {"heuristic": "least_loaded"}}).request_routing_stats_period_s == 0.2
    )

    # As if the file had been damaged after it was deployed.
    router = recordings.made[0]
    router.wanted = recordings.Wanted(config=str(config))
    router._event_loop.call_soon_threadsafe(router._forget_everything)
    wait_until(lambda: "missing" in caplog.text or not handle.remote({"prompt": "x"}).result(timeout_s=60))
    answered = answers([handle.remote({"prompt": "x"}) for _ in range(6)])
    assert len(answered) == 6
    assert "missing" in caplog.text
