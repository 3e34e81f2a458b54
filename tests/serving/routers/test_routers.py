"""The routers as they ship, before workers that can be held up: all is answered, and spread as they say."""

import http.client
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from servegym.experiments.serving_routers.start import FAMILIES, RunningRouter, start_router
from tests.serving.routers.fake_workers import HOLD, MODEL, FakeWorkers

ALL = [(family, policy) for family in FAMILIES for policy in FAMILIES[family].policies]
MANY = 300
"""Requests after which chance cannot explain a worker's share: a third of them, give or take 8."""

Start = Callable[..., RunningRouter]
Hold = Callable[..., "Answer"]


def with_policy(*names: str) -> list[tuple[str, str]]:
    """All families with one of these policies."""
    return [(family, policy) for family, policy in ALL if policy in names]


@pytest.fixture
def workers() -> Iterator[FakeWorkers]:
    with FakeWorkers(3) as workers:
        yield workers


@pytest.fixture
def start(workers: FakeWorkers, tmp_path: Path) -> Iterator[Start]:
    """Starts a router in front of the workers; it ends with the test."""
    with ExitStack() as running:

        def start(family: str, policy: str, *options: str) -> RunningRouter:
            urls = [worker.url for worker in workers.workers]
            return running.enter_context(
                start_router(family, policy, urls, sys.executable, tmp_path, options)
            )

        yield start


class Answer:
    """An answer that is being streamed, read event by event."""

    def __init__(self, url: str, prompt: str, **headers: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
        body = {"model": MODEL, "prompt": prompt, "max_tokens": 3, "stream": True}
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(
            "POST", "/v1/completions", json.dumps(body), {"content-type": "application/json", **headers}
        )
        self._response = self._connection.getresponse()
        assert self._response.status == 200, self._response.read()

    def event(self) -> str:
        """The text of the next event."""
        line = self._response.readline().decode()
        assert line.startswith("data: "), line
        assert self._response.readline() == b"\n"
        data = line.removeprefix("data: ").strip()
        return data if data == "[DONE]" else str(json.loads(data)["choices"][0]["text"])

    def rest(self) -> list[str]:
        """The text of all events that are left, the last of which is [DONE]."""
        events = []
        while not events or events[-1] != "[DONE]":
            events.append(self.event())
        self.close()
        return events

    def close(self) -> None:
        """Wants no more."""
        self._response.close()
        self._connection.close()


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Sends requests that are under way until the test ends: their first tokens come, the others wait."""
    answers = []

    def hold(url: str, prefix: str = "") -> Answer:
        answers.append(Answer(url, prefix + HOLD))
        assert answers[-1].event() == "0 "
        return answers[-1]

    yield hold
    for answer in answers:
        answer.close()


def ask(url: str, prompt: str, **headers: str) -> None:
    """A request and its whole answer."""
    assert Answer(url, prompt, **headers).rest() == ["0 ", "1 ", "2 ", "[DONE]"]


def counts(workers: FakeWorkers) -> list[int]:
    return [len(worker.prompts) for worker in workers.workers]


def busy(workers: FakeWorkers) -> int:
    """The one worker that holds an answer back."""
    (found,) = [number for number, worker in enumerate(workers.workers) if worker.running]
    return found


@pytest.mark.parametrize("family, policy", ALL)
def test_every_request_is_answered_once_and_streamed(
    family: str, policy: str, start: Start, hold: Hold, workers: FakeWorkers
) -> None:
    router = start(family, policy)
    held = hold(router.url)  # gets a token while the worker waits: nobody keeps the answer until it is whole
    prompts = [f"request {number}" for number in range(60)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda prompt: ask(router.url, prompt), prompts))
    workers.release()
    assert held.rest() == ["1 ", "2 ", "[DONE]"]
    arrived = Counter(prompt for worker in workers.workers for prompt in worker.prompts)
    assert arrived == Counter([HOLD, *prompts])


@pytest.mark.parametrize("family, policy", with_policy("round_robin"))
def test_round_robin_takes_turns_whoever_is_busy(
    family: str, policy: str, start: Start, hold: Hold, workers: FakeWorkers
) -> None:
    router = start(family, policy)
    hold(router.url)
    for number in range(29):
        ask(router.url, f"request {number}")
    assert counts(workers) == [10, 10, 10]


@pytest.mark.parametrize("family, policy", with_policy("random"))
def test_random_takes_no_turns(family: str, policy: str, start: Start, workers: FakeWorkers) -> None:
    router = start(family, policy)
    order = []
    for number in range(MANY):
        before = counts(workers)
        ask(router.url, f"request {number}")
        order.append([after - then for after, then in zip(counts(workers), before, strict=True)].index(1))
    assert min(counts(workers)) > MANY / 6
    assert any(first == second for first, second in pairwise(order))


@pytest.mark.parametrize(
    "family, policy",
    [
        ("envoy", "least_request"),
        ("smg", "power_of_two"),
        ("smg", "least_load"),
        ("vllm-router", "power_of_two"),
    ],
)
def test_the_busy_worker_is_avoided(
    family: str, policy: str, start: Start, hold: Hold, workers: FakeWorkers
) -> None:
    router = start(family, policy)
    hold(router.url)
    for number in range(MANY):
        ask(router.url, f"request {number}")
    shares = counts(workers)
    assert shares.pop(busy(workers)) < MANY / 6
    assert min(shares) > MANY / 6


def test_sglang_s_power_of_two_goes_by_the_loads_it_asked_for(
    start: Start, hold: Hold, workers: FakeWorkers
) -> None:
    router = start("sglang-router", "power_of_two", "--worker-startup-check-interval", "1")
    hold(router.url)
    loaded = workers.workers[busy(workers)]
    asked, end_s = loaded.asked["/get_load"], time.monotonic() + 60
    while loaded.asked["/get_load"] < asked + 2:  # the answer to the first of them has certainly arrived
        assert time.monotonic() < end_s
        time.sleep(0.05)
    for number in range(MANY):
        ask(router.url, f"request {number}")
    assert len(loaded.prompts) < MANY / 6


@pytest.mark.parametrize("family, policy", with_policy("cache_aware", "prefix_hash"))
def test_a_prefix_stays_where_it_was(
    family: str, policy: str, start: Start, hold: Hold, workers: FakeWorkers
) -> None:
    router = start(family, policy)
    prefixes = [f"{letter} said {number} " * 300 for number, letter in enumerate("abcdefghij")]
    for prefix in prefixes:
        hold(router.url, prefix)
    for question in range(3):
        for prefix in prefixes:
            ask(router.url, f"{prefix} question {question}")
    homes = [{prompt[0] for prompt in worker.prompts} for worker in workers.workers]
    assert sum(len(home) for home in homes) == len(prefixes)  # each at one worker only
    assert sum(bool(home) for home in homes) > 1


def test_consistent_hash_keeps_sessions_together(start: Start, workers: FakeWorkers) -> None:
    router = start("vllm-router", "consistent_hash")
    for turn in range(3):
        for session in "abcdefghij":
            ask(router.url, f"{session} turn {turn}", x_session_id=f"session-{session}")
    homes = [{prompt[0] for prompt in worker.prompts} for worker in workers.workers]
    assert sum(len(home) for home in homes) == 10
    assert sum(bool(home) for home in homes) > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stopped_router_answers_no_more(family: str, start: Start) -> None:
    router = start(family, "round_robin")
    assert router.running
    router.stop()
    assert not router.running
    with pytest.raises(ConnectionRefusedError):
        Answer(router.url, "too late")
