"""Decisions of ours in front of the real SMG: requests go where it was decided, also after workers change."""

import asyncio
import dataclasses
import http.client
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from servegym.agents.serving.plugins.smg import SmgPinning
from servegym.agents.serving.routing.fleet_view import FleetView
from servegym.agents.serving.routing.least_loaded import LeastLoaded
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import Router
from servegym.costmodels.errors import InputError
from servegym.experiments.serving_routers.start import FAMILIES, start_router
from tests.serving.routers.fake_workers import MODEL, FakeWorker, FakeWorkers

QUICK_HEALTH = (
    *("--health-check-interval-secs", "1"),
    *("--health-failure-threshold", "1"),
    *("--health-success-threshold", "1"),
)


class Restartable(FakeWorkers):
    """Workers that can end and come back at the same place."""

    def __enter__(self) -> "Restartable":
        self._thread.start()
        self.servers: dict[str, asyncio.Server] = {}
        self.connections: dict[str, set[asyncio.Task[None]]] = {}
        for worker in self.workers:
            self.start(worker)
        return self

    def start(self, worker: FakeWorker) -> None:
        connections = self.connections[worker.name] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections.add(task)
            await worker.serve(reader, writer)

        starting = asyncio.start_server(serve, "127.0.0.1", worker.port)
        server = asyncio.run_coroutine_threadsafe(starting, self._loop).result()
        self.servers[worker.name] = server
        worker.port = server.sockets[0].getsockname()[1]

    def stop(self, worker: FakeWorker) -> None:
        async def end() -> None:
            self.servers[worker.name].close()
            for task in self.connections[worker.name]:
                task.cancel()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()


@pytest.fixture
def workers() -> Iterator[Restartable]:
    with Restartable(3) as workers:
        yield workers


@pytest.fixture
def start(
    workers: Restartable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], str]]:
    """Starts SMG in front of the workers with a policy; gives its URL."""
    policies = (*FAMILIES["smg"].policies, "consistent_hashing")
    monkeypatch.setitem(FAMILIES, "smg", dataclasses.replace(FAMILIES["smg"], policies=policies))
    running = []

    def start(policy: str) -> str:
        urls = [worker.url for worker in workers.workers]
        running.append(start_router("smg", policy, urls, sys.executable, tmp_path, QUICK_HEALTH))
        return running[-1].url

    yield start
    for router in running:
        router.stop()


def send(url: str, prompt: str, headers: dict[str, str]) -> tuple[int, dict[str, str]]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    body = json.dumps({"model": MODEL, "prompt": prompt, "max_tokens": 2, "stream": True})
    connection.request("POST", "/v1/completions", body, {"content-type": "application/json", **headers})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders())


def decide_and_send(url: str, pinning: SmgPinning, router: Router, number: int) -> tuple[str, str]:
    """One request through our router and SMG; where it was to go and where it went."""
    request = RoutedRequest(f"request {number}", 100.0)
    chosen = router.route(request).replica
    status, headers = send(url, f"to {chosen}", pinning.header(chosen))
    router.ended(request.request_id, status == 200)
    return chosen, pinning.landed(chosen, headers) if status == 200 else f"status {status}"


def wait_for(true: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + 30
    while not true():
        assert time.monotonic() < ends_s
        time.sleep(0.05)


def test_all_requests_land_where_they_were_decided_to(
    workers: Restartable, start: Callable[[str], str]
) -> None:
    url = start("consistent_hashing")
    names = [worker.url for worker in workers.workers]
    router = Router(LeastLoaded(), FleetView(names))
    pinning = SmgPinning(url, MODEL, router)
    assert sorted(pinning.workers) == sorted(names)
    with ThreadPoolExecutor(8) as clients:
        sent = list(clients.map(lambda i: decide_and_send(url, pinning, router, i), range(300)))
    assert [went for _, went in sent] == [chosen for chosen, _ in sent]
    for worker in workers.workers:
        got = [prompt for prompt in worker.prompts if prompt.startswith("to ")]
        assert set(got) == {f"to {worker.url}"}
        assert len(got) == sum(chosen == worker.url for chosen, _ in sent) > 50
    assert router.fleet.num_under_way == 0 and pinning.calibrations == 1


def test_workers_that_end_and_come_back(workers: Restartable, start: Callable[[str], str]) -> None:
    url = start("consistent_hashing")
    names = [worker.url for worker in workers.workers]
    router = Router(LeastLoaded(), FleetView(names))
    pinning = SmgPinning(url, MODEL, router)
    before = pinning.workers
    victim = next(worker for worker in workers.workers if worker.url == before[0])
    with pinning.watched(0.1):
        workers.stop(victim)
        wait_for(lambda: pinning.workers == before[1:])
        with pytest.raises(LookupError, match="does not send"):
            pinning.header(victim.url)
        sent = [decide_and_send(url, pinning, router, i) for i in range(60)]
        assert Counter(went for _, went in sent) == Counter(chosen for chosen, _ in sent)
        assert {chosen for chosen, _ in sent} == set(before[1:])
        workers.start(victim)
        wait_for(lambda: victim.url in pinning.workers)
        sent = [decide_and_send(url, pinning, router, i) for i in range(60, 150)]
    assert [went for _, went in sent] == [chosen for chosen, _ in sent]
    assert {chosen for chosen, _ in sent} == set(names)


def test_a_request_that_went_astray_is_noticed(workers: Restartable, start: Callable[[str], str]) -> None:
    url = start("consistent_hashing")
    pinning = SmgPinning(url, MODEL)
    before = pinning.workers
    victim = next(worker for worker in workers.workers if worker.url == before[0])
    workers.stop(victim)

    def shifted() -> bool:
        status, headers = send(url, "x", pinning.header(before[1]))
        return status == 200 and pinning.landed(before[1], headers) == before[2]

    wait_for(shifted)
    assert pinning.refresh() and not pinning.refresh()
    status, headers = send(url, "x", pinning.header(before[1]))
    assert status == 200 and pinning.landed(before[1], headers) == before[1]
    assert not pinning.refresh()


@pytest.mark.parametrize("policy", ["prefix_hash", "round_robin"])
def test_smg_that_does_not_heed_the_header(start: Callable[[str], str], policy: str) -> None:
    url = start(policy)
    with pytest.raises(InputError, match="--policy consistent_hashing"):
        SmgPinning(url, MODEL)


def test_who_does_not_answer_as_smg(workers: Restartable) -> None:
    with pytest.raises(InputError, match="not a list of workers"):
        SmgPinning(workers.workers[0].url, MODEL)
    workers.stop(workers.workers[0])
    with pytest.raises(InputError, match="does not answer"):
        SmgPinning(workers.workers[0].url, MODEL)
    with pytest.raises(InputError, match="must be http"):
        SmgPinning("file:///etc/passwd", MODEL)
