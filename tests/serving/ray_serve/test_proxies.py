"""The application in front of servers outside Ray: answers are theirs, and who dies loses no request."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import ray
import requests
from ray import serve

from servegym.agents.serving.plugins.ray_serve import proxies, request_router_config
from servegym.agents.serving.routing.request_features import MAX_BODY_BYTES
from tests.serving.ray_serve.conftest import wait_until

FAKE = Path(__file__).parents[1] / "envoy" / "fake_replica.py"
NUM_WORKERS = 3
NAMES = {"w0", "w1", "w2"}
FIRST_BYTE_TIMEOUT_S = 3.0


class Workers:
    """Servers outside Ray, and the URL of Ray Serve in front of them."""

    def __init__(self, ports: list[int], front: str) -> None:
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        self.front = front
        self._ports = ports
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Starts all anew."""
        self.stop()
        for i, port in enumerate(self._ports):
            self.processes.append(subprocess.Popen([sys.executable, FAKE, str(port), f"w{i}"]))
        for url in self.urls:
            wait_until(lambda: answers(f"{url}/health"))  # noqa: B023

    def stop(self) -> None:
        while self.processes:
            process = self.processes.pop()
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def front(cluster: str, free_port: Callable[[], int]) -> Iterator[Workers]:
    workers = Workers([free_port() for _ in range(NUM_WORKERS)], cluster)
    router = request_router_config({"policy": {"heuristic": "least_loaded"}}, routing_stats_period_s=0.1)
    application = proxies.application(workers.urls, router, FIRST_BYTE_TIMEOUT_S)
    serve.run(application, name="proxies", route_prefix="/")
    yield workers
    serve.delete("proxies")
    workers.stop()


@pytest.fixture
def workers(front: Workers) -> Workers:
    """All of them alive, and known to be."""
    front.start()
    wait_until(lambda: who_answers(front.front) == NAMES)
    return front


def who_answers(front: str) -> set[str]:
    """The names of those that answer a few requests at once."""
    return {json.loads(text).get("replica") for _, text in ask_all(front, short(9))}


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=1).ok
    except requests.RequestException:
        return False


def ask_all(
    front: str, bodies: list[dict[str, Any]], meanwhile: Callable[[], None] = lambda: None
) -> list[tuple[int, str]]:
    """Status and text of each, 8 at a time; `meanwhile` happens when a third has been asked."""

    async def ask() -> list[tuple[int, str]]:
        gate, loop = asyncio.Semaphore(8), asyncio.get_running_loop()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session:

            async def one(i: int, body: dict[str, Any]) -> tuple[int, str]:
                async with gate:
                    if i == len(bodies) // 3:
                        await loop.run_in_executor(None, meanwhile)
                    async with session.post(f"{front}/v1/completions", json=body) as answer:
                        return answer.status, await answer.text()

            return list(await asyncio.gather(*(one(i, body) for i, body in enumerate(bodies))))

    return asyncio.run(ask())


def short(count: int) -> list[dict[str, Any]]:
    return [
        {"id": str(i), "prompt": "x", "tokens": 2, "first_s": 0.03, "token_s": 0.01} for i in range(count)
    ]


def test_answers_are_the_workers(workers: Workers) -> None:
    got = ask_all(workers.front, short(30))
    assert [status for status, _ in got] == [200] * 30
    assert [json.loads(text)["id"] for _, text in got] == [str(i) for i in range(30)]
    # Each replica stands for a worker of its own.
    assert {json.loads(text)["replica"] for _, text in got} == NAMES


def test_tokens_come_when_they_are_made(workers: Workers) -> None:
    body = {"id": "s", "prompt": "x", "tokens": 5, "first_s": 0.1, "token_s": 0.2, "stream": True}
    came_s, lines, began_s = [], [], time.monotonic()
    with requests.post(f"{workers.front}/v1/completions", json=body, stream=True, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line:
                came_s.append(time.monotonic() - began_s)
                lines.append(line)
    assert len(lines) >= 5
    assert came_s[-1] - came_s[0] > 0.5  # not all at the end


def test_a_dead_worker_loses_no_request(workers: Workers) -> None:
    got = ask_all(workers.front, short(90), workers.processes[0].kill)
    assert Counter(status for status, _ in got) == {200: 90}
    assert {json.loads(text)["replica"] for _, text in got[-30:]} == {"w1", "w2"}


def test_a_worker_that_hangs_loses_no_request(workers: Workers) -> None:
    def stop() -> None:
        workers.processes[0].send_signal(signal.SIGSTOP)  # its port still takes connections

    got = ask_all(workers.front, short(90), stop)
    assert Counter(status for status, _ in got) == {200: 90}
    assert {json.loads(text)["replica"] for _, text in got[-30:]} == {"w1", "w2"}


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_is_bounded(workers: Workers, chunked: bool) -> None:
    def ask(size: int) -> requests.Response:
        around = len(json.dumps({"id": "x", "prompt": ""}))
        body = json.dumps({"id": "x", "prompt": "x" * (size - around)}).encode()
        pieces = (body[at : at + 100_000] for at in range(0, size, 100_000))
        return requests.post(f"{workers.front}/v1/completions", data=pieces if chunked else body, timeout=60)

    whole = ask(MAX_BODY_BYTES)
    assert (whole.status_code, whole.json()["bytes"]) == (200, MAX_BODY_BYTES)
    refused = ask(MAX_BODY_BYTES + 1)
    assert refused.status_code == 413
    assert refused.json()["error"]["message"] == "the body must have 4194304 bytes at most"


def test_a_dead_replica_loses_no_request_and_comes_back(workers: Workers) -> None:
    def replicas() -> dict[str, Any]:
        actors = ray.util.list_named_actors(all_namespaces=True)
        return {each["name"]: each for each in actors if "#Worker#" in each["name"]}

    before = set(replicas())
    victim = sorted(before)[0]
    got = ask_all(workers.front, short(90), lambda: ray.kill(ray.get_actor(victim, namespace="serve")))
    assert Counter(status for status, _ in got) == {200: 90}
    wait_until(lambda: len(set(replicas()) - {victim}) == NUM_WORKERS, limit_s=60)
    wait_until(lambda: who_answers(workers.front) == NAMES)


def test_without_workers_there_is_503(workers: Workers) -> None:
    for process in workers.processes:
        process.kill()
    answer = requests.post(f"{workers.front}/v1/completions", json=short(1)[0], timeout=60)
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "no worker answers"


def test_a_wrong_url_is_refused() -> None:
    with pytest.raises(SystemExit, match="--workers ftp://x: must be http://host:port"):
        proxies.main(["--workers", "ftp://x"])


@pytest.mark.parametrize("given", ["0", "nan", "inf"])
def test_a_wrong_time_limit_is_refused(given: str) -> None:
    with pytest.raises(
        SystemExit, match=f"--first-byte-timeout-s {float(given)}: must be positive and finite"
    ):
        proxies.main(["--workers", "http://x:1", "--first-byte-timeout-s", given])
