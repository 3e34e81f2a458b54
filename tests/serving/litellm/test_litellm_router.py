"""ServegymStrategy in a real litellm.Router before real servers: who is asked, and what the books say."""

import asyncio
import gc
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import litellm
import numpy as np
import pytest
from litellm.exceptions import InternalServerError

from servegym.agents.serving.contracts import ILLEGAL, UNKNOWN
from servegym.agents.serving.routing.fleet_view import (
    AVAILABLE,
    KV_USED_BLOCKS,
    OUTSTANDING_TOKENS,
    SPEED,
    WAITING,
)
from servegym.agents.serving.routing.router import RAISED
from tests.serving.litellm.conftest import Made, Recorder, Server, deployment

Make, Run = Callable[..., Made], Callable[..., Any]
MESSAGES = [{"role": "user", "content": "hello"}]


class ShortestBacklog:
    """Fewest tokens and requests: a rule that is easy to check."""

    name, bounded = "shortest_backlog", True

    def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> np.ndarray:
        scores = -(replicas[:, OUTSTANDING_TOKENS] + 10.0 * replicas[:, WAITING])
        return np.where(replicas[:, AVAILABLE] > 0, scores, ILLEGAL).astype(np.float32)


class Collecting(ShortestBacklog):
    """Python collects garbage while it decides, as it may at any time."""

    name = "collecting"

    def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> np.ndarray:
        gc.collect()
        return super().scores(request, replicas, session)


class Favourite:
    """The same one, whoever else is there."""

    name, bounded = "favourite", True

    def __init__(self, which: int) -> None:
        self._which = which

    def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> np.ndarray:
        scores = np.zeros(len(replicas), np.float32)
        scores[self._which] = 1.0
        return np.where(replicas[:, AVAILABLE] > 0, scores, ILLEGAL).astype(np.float32)


class Raising:
    """A policy that is broken."""

    name, bounded = "raising", True

    def scores(self, request: np.ndarray, replicas: np.ndarray, session: float = UNKNOWN) -> np.ndarray:
        raise RuntimeError("broken")


async def until(is_so: Callable[[], bool], limit_s: float = 10.0) -> None:
    end_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end_s, "waited in vain"
        await asyncio.sleep(0.01)


async def all_ended(made: Made, count: int) -> None:
    """Of `count` requests, each decided about once, each has ended once, and nothing is left of them."""
    _, strategy, recorder = made
    await until(lambda: len(recorder.outcomes) >= count)
    await asyncio.sleep(0.05)
    assert len(recorder.outcomes) == count == len({request_id for request_id, _, _ in recorder.outcomes})
    assert {request.request_id for _, request, _, _ in recorder.decisions} == {
        request_id for request_id, _, _ in recorder.outcomes
    }
    assert strategy.router.fleet.num_under_way == 0


def tokens(recorder: Recorder) -> list[int]:
    return sorted(count for _, count, _ in recorder.outcomes)


def test_requests_go_where_the_policy_sends_them(run: Run, make: Make, servers: dict[str, Server]) -> None:
    servers["s2"].wait_s = 0.1  # the slow one keeps its requests longer, and gets fewer
    made = router, strategy, recorder = make(ShortestBacklog())

    async def drive() -> list[Any]:
        gate = asyncio.Semaphore(8)

        async def one(i: int) -> Any:
            async with gate:
                return await router.acompletion(model="m", messages=MESSAGES, max_tokens=1 + i % 5)

        answers = await asyncio.gather(*(one(i) for i in range(120)))
        await all_ended(made, 120)
        return answers

    answers = run(drive())
    names = strategy.router.fleet.names
    decided = Counter()
    for decision, _, features, rows in recorder.decisions:
        scores = ShortestBacklog().scores(features, rows)
        assert decision.replica == names[int(scores.argmax())] and decision.fallback == ""
        decided[decision.replica] += 1
    assert decided == Counter(answer.model for answer in answers)
    assert decided == {name: server.seen["requests"] for name, server in servers.items()}
    assert decided["s2"] < min(decided["s0"], decided["s1"])
    assert tokens(recorder) == sorted(1 + i % 5 for i in range(120))
    assert np.isnan(recorder.ttfts_s).all()  # LiteLLM does not say when tokens came


def test_failed_attempts_are_requests_of_their_own(run: Run, make: Make, servers: dict[str, Server]) -> None:
    servers["s1"].status = 500
    made = router, _strategy, recorder = make(Favourite(1), num_retries=1, retry_after=0)

    async def drive() -> None:
        with pytest.raises(InternalServerError):
            await router.acompletion(model="m", messages=MESSAGES)
        await all_ended(made, len(recorder.decisions))

    run(drive())
    assert len(recorder.outcomes) >= 2
    assert {ok for _, _, ok in recorder.outcomes} == {False}


def test_who_is_cooling_down_is_no_candidate(run: Run, make: Make, servers: dict[str, Server]) -> None:
    servers["s1"].status = 500
    options = {
        "disable_cooldowns": False,
        "allowed_fails": 0,
        "cooldown_time": 60,
        "num_retries": 2,
        "retry_after": 0,
    }
    made = router, strategy, recorder = make(Favourite(1), **options)

    async def drive() -> None:
        first = await router.acompletion(model="m", messages=MESSAGES)
        assert first.model in ("s0", "s2")
        asked = servers["s1"].seen["requests"]
        for _ in range(5):
            await router.acompletion(model="m", messages=MESSAGES)
        assert servers["s1"].seen["requests"] == asked
        await all_ended(made, len(recorder.decisions))

    run(drive())
    i = strategy.router.fleet.index["s1"]
    assert [rows[i, AVAILABLE] for _, _, _, rows in recorder.decisions[-5:]] == [0.0] * 5


def test_a_cancelled_request_is_over(run: Run, make: Make, servers: dict[str, Server]) -> None:
    for server in servers.values():
        server.wait_s = 30.0
    made = router, strategy, recorder = make()

    async def drive() -> None:
        tasks = [asyncio.create_task(router.acompletion(model="m", messages=MESSAGES)) for _ in range(4)]
        await until(lambda: sum(server.running for server in servers.values()) == 4)
        assert strategy.router.fleet.num_under_way == 4
        assert [task.cancel() for task in tasks[:3]] == [True] * 3
        await asyncio.gather(*tasks[:3], return_exceptions=True)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(tasks[3], 0.05)
        tasks.clear()
        await until(lambda: gc.collect() >= 0 and len(recorder.outcomes) == 4)
        await all_ended(made, 4)

    run(drive())
    assert [ok for _, _, ok in recorder.outcomes] == [False] * 4


def test_who_was_given_up_may_be_found_while_the_router_is_at_work(run: Run, make: Make) -> None:
    """That is when Python finds that nobody holds its id: in any thread, whatever locks that has."""
    made = router, strategy, recorder = make(Collecting())

    async def give_up() -> None:
        request: dict[str, Any] = {}
        await strategy.async_get_available_deployment("m", MESSAGES, request_kwargs=request)
        request["itself"] = request  # only the collector can find it

    gc.disable()
    try:
        run(give_up())
        assert strategy.router.fleet.num_under_way == 1
        asking = threading.Thread(
            target=router.completion, kwargs={"model": "m", "messages": MESSAGES}, daemon=True
        )
        asking.start()
        asking.join(30)
        assert not asking.is_alive()
    finally:
        gc.enable()
    run(all_ended(made, 2))
    assert sorted(ok for _, _, ok in recorder.outcomes) == [False, True]


def test_a_stream_counts_until_its_end(run: Run, make: Make) -> None:
    made = router, strategy, recorder = make()

    async def drive() -> None:
        stream = await router.acompletion(model="m", messages=MESSAGES, max_tokens=9, stream=True)
        await anext(stream)
        assert strategy.router.fleet.num_under_way == 1 and not recorder.outcomes
        async for _ in stream:
            pass
        await all_ended(made, 1)

    run(drive())
    assert tokens(recorder) == [9]
    assert np.isnan(recorder.ttfts_s).all()


def test_a_stream_that_nobody_reads_to_its_end_is_over(run: Run, make: Make) -> None:
    made = router, strategy, recorder = make()

    async def drive() -> None:
        stream = await router.acompletion(model="m", messages=MESSAGES, max_tokens=2000, stream=True)
        await anext(stream)
        assert strategy.router.fleet.num_under_way == 1
        await stream.aclose()
        del stream
        await until(lambda: gc.collect() >= 0 and len(recorder.outcomes) == 1)
        await all_ended(made, 1)

    run(drive())
    assert [ok for _, _, ok in recorder.outcomes] == [False]


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_without_asyncio(run: Run, make: Make, stream: bool) -> None:
    made = router, _strategy, recorder = make()
    for _ in range(6):
        answer = router.completion(model="m", messages=MESSAGES, max_tokens=3, stream=stream)
        if stream:
            assert sum(len(chunk.choices) and bool(chunk.choices[0].delta.content) for chunk in answer) == 3
        else:
            assert answer.usage.completion_tokens == 3
    run(all_ended(made, 6))
    assert tokens(recorder) == [3] * 6
    assert len({decision.replica for decision, _, _, _ in recorder.decisions}) == 3


def test_a_broken_policy_loses_nothing(run: Run, make: Make, servers: dict[str, Server]) -> None:
    made = router, _strategy, recorder = make(Raising())

    async def drive() -> None:
        await asyncio.gather(*(router.acompletion(model="m", messages=MESSAGES) for _ in range(9)))
        await all_ended(made, 9)

    run(drive())
    assert {decision.fallback for decision, _, _, _ in recorder.decisions} == {RAISED}
    assert [server.seen["requests"] for server in servers.values()] == [3, 3, 3]


def test_loads_reach_the_policy(run: Run, make: Make, servers: dict[str, Server]) -> None:
    for i, server in enumerate(servers.values()):
        server.load = {"running": 0, "waiting": 0, "kv_used_blocks": 100.0 * i, "speed": 1.0 + i}
    router, strategy, recorder = make(report_period_s=0.05)

    async def drive() -> None:
        await until(lambda: bool(strategy.router.fleet.is_fresh(strategy.router.clock()).all()))
        await router.acompletion(model="m", messages=MESSAGES)

    run(drive())
    rows = recorder.decisions[-1][3]
    assert list(rows[:, SPEED]) == [1.0, 2.0, 3.0]
    assert list(rows[:, KV_USED_BLOCKS]) == [0.0, 100.0, 200.0]


def test_a_deployment_that_is_named_gets_the_request(
    run: Run, make: Make, servers: dict[str, Server]
) -> None:
    made = router, _strategy, recorder = make(Favourite(1))

    async def drive() -> None:
        answer = await router.acompletion(model="s0", messages=MESSAGES)
        assert answer.model == "s0"
        await all_ended(made, 1)

    run(drive())
    assert recorder.decisions[0][0].replica == "s0"


def test_deployments_may_be_added(run: Run, make: Make, urls_and_servers: dict[str, Server]) -> None:
    made = router, _strategy, recorder = make(Favourite(3))
    url = next(iter(urls_and_servers))
    router.add_deployment(litellm.types.router.Deployment(**deployment(url, "s3")))

    async def drive() -> None:
        await router.acompletion(model="m", messages=MESSAGES)
        await all_ended(made, 1)

    run(drive())
    assert recorder.decisions[0][0].replica == "s3"


def test_what_a_policy_knows_of_a_request(run: Run, make: Make) -> None:
    router, _strategy, recorder = make()

    async def drive() -> None:
        text = [{"role": "user", "content": "x" * 4000}]
        await router.acompletion(model="m", messages=text, user="alice")
        await router.acompletion(model="m", messages=text, user="alice")
        await router.acompletion(model="m", messages=text, user="bob")

    run(drive())
    requests = [request for _, request, _, _ in recorder.decisions]
    assert 1000 <= requests[0].prompt_tokens <= 1010
    assert requests[0].session == requests[1].session != requests[2].session
    assert requests[0].prefix_hashes == requests[2].prefix_hashes
