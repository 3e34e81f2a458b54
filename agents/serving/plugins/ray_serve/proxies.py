"""A Ray Serve application in front of OpenAI servers that run outside Ray, one replica for each of them.

    python -m servegym.agents.serving.plugins.ray_serve.proxies --workers URL,URL --config serving.json

starts a cluster of this machine, prints `{"url": ...}` when it serves and goes on until it is stopped.
Without `--config` Serve routes by its own rule. An ingress reads requests, since Serve's own proxy hands them
on before their bodies have come; the router is in the ingress, of which there is one, so that its books hold
everything.
"""

import argparse
import asyncio
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Ray reads these when it is imported. It would ask for a token, and report how it is used.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import aiohttp
import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import HTTPOptions, RequestRouterConfig
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from servegym.agents.serving.plugins.ray_serve import request_router_config
from servegym.agents.serving.plugins.ray_serve.routing_stats import UNAVAILABLE, routing_stats
from servegym.agents.serving.routing.load_reports import AGE, read_load
from servegym.agents.serving.routing.request_features import MAX_BODY_BYTES, PREDICTED_HEADER
from servegym.costmodels.errors import InputError

MAX_ONGOING = 4096
"""Requests at a worker: it queues them itself."""

ATTEMPTS, FIRST_PAUSE_S = 6, 0.05
"""A request that no answer has begun to is sent again after a pause, and after twice that the next time."""

FIRST_BYTE_TIMEOUT_S = 600.0
"""From asking a worker to the first byte of its answer, which without streaming is all of it."""

LOAD_TIMEOUT_S = 1.0
_PASSED_ON = ("content-type", "authorization", "x-request-id", "x-session-id", PREDICTED_HEADER)
_KEPT = ("content-type", "content-length", "retry-after")


class WorkerGone(Exception):
    """A worker did not take a request, or fell silent before it began to answer."""


class Worker:
    """The replica that stands for a worker: of rank i for the i-th URL. Streams what comes as it comes."""

    def __init__(self, urls: Sequence[str], first_byte_timeout_s: float) -> None:
        rank = serve.get_replica_context().rank
        assert rank is not None
        self._url = urls[rank.rank].rstrip("/")
        self._load_path = "/load"
        self._first_byte_timeout_s = first_byte_timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def record_routing_stats(self) -> dict[str, float]:
        """What the worker says of its load."""
        began_s = time.time()
        try:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                numbers, self._load_path = await read_load(urlsplit(self._url).netloc, self._load_path)
        except Exception:  # whatever it is: it must not be chosen
            return UNAVAILABLE
        # True at some time between question and answer: at the earlier one a request counts twice at worst.
        return routing_stats(numbers, began_s - numbers.get(AGE, 0.0))

    async def forward(
        self, body: bytes, *, method: str, path: str, headers: dict[str, str]
    ) -> AsyncIterator[tuple[int, dict[str, str], bytes] | bytes]:
        """The worker's answer: its status, headers and first piece, then the others."""
        passed = {name: value for name, value in headers.items() if name in _PASSED_ON}
        try:
            async with asyncio.timeout(self._first_byte_timeout_s):
                answer, first = await self._begun(body, method, path, passed)
        except (aiohttp.ClientError, OSError) as error:
            raise WorkerGone(f"{self._url}: {type(error).__name__}") from None
        async with answer:
            kept = {name: answer.headers[name] for name in _KEPT if name in answer.headers}
            yield answer.status, kept, first
            async for piece in answer.content.iter_any():
                yield piece

    async def _begun(
        self, body: bytes, method: str, path: str, headers: dict[str, str]
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        """An answer that has begun: the status of a stream may come long before, and says nothing yet."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(None, sock_connect=5.0)
            )
        answer = await self._session.request(method, self._url + path, data=body, headers=headers)
        try:
            return answer, await anext(answer.content.iter_any(), b"")
        except BaseException:  # its time may be over
            answer.close()
            raise


class Ingress:
    """Gives each request to a worker, and to another one where that dies before it has begun to answer."""

    def __init__(self, workers: Any) -> None:
        self._workers = workers.options(stream=True)  # a DeploymentHandle

    async def __call__(self, request: Request) -> Response:
        """The worker's answer; 503 where none gave one, 413 for a body that is too long."""
        body, path = await _body(request), request.url.path
        if body is None:
            message = f"the body must have {MAX_BODY_BYTES} bytes at most"
            return JSONResponse({"error": {"message": message, "code": 413}}, 413)
        headers, pause_s = dict(request.headers), FIRST_PAUSE_S
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(pause_s)
                pause_s *= 2.0
            pieces = self._workers.forward.remote(body, method=request.method, path=path, headers=headers)
            try:
                status, kept, first = await anext(pieces)
            except (RayActorError, WorkerGone):
                continue
            return StreamingResponse(_chained(first, pieces), status, kept)
        return JSONResponse({"error": {"message": "no worker answers", "code": 503}}, 503)


async def _chained(first: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in others:
        yield piece


async def _body(request: Request) -> bytes | None:
    """The body of a request; None where it is longer than MAX_BODY_BYTES, as soon as that is known."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            return None
    return bytes(body)


def application(
    urls: Sequence[str],
    router: RequestRouterConfig | None,
    first_byte_timeout_s: float = FIRST_BYTE_TIMEOUT_S,
) -> serve.Application:
    """The ingress over a replica for each URL; `router` None: Serve's own.

    first_byte_timeout_s: how long a worker may take to begin an answer before another is asked; must be more
    than answers that are not streamed take as a whole.
    """
    workers = serve.deployment(
        num_replicas=len(urls),
        max_ongoing_requests=MAX_ONGOING,
        ray_actor_options={"num_cpus": 0},
        request_router_config=router or RequestRouterConfig(),
        graceful_shutdown_timeout_s=1.0,
    )(Worker)
    ingress = serve.deployment(max_ongoing_requests=MAX_ONGOING, ray_actor_options={"num_cpus": 0})(Ingress)
    return ingress.bind(workers.bind(list(urls), first_byte_timeout_s))


def start(
    urls: Sequence[str],
    router: RequestRouterConfig | None,
    first_byte_timeout_s: float,
    *,
    host: str,
    port: int,
) -> str:
    """Starts a cluster of this machine and the application on it; the URL at which it serves."""
    path = [str(Path(__file__).absolute().parents[5]), os.environ.get("PYTHONPATH", "")]
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=200 << 20,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, path))}},
        log_to_driver=False,
    )
    serve.start(http_options=HTTPOptions(host=host, port=port))
    serve.run(application(urls, router, first_byte_timeout_s), name="proxies")
    return f"http://{host}:{port}"


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="proxies", description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", required=True, help="URLs, separated by commas")
    parser.add_argument("--config", help="what servegym deploy wrote; without it Serve's own router")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--stats-period-s", type=float, default=0.2, help="how often workers tell their load")
    parser.add_argument(
        "--first-byte-timeout-s",
        type=float,
        default=FIRST_BYTE_TIMEOUT_S,
        help="until an answer begins, before another worker is asked",
    )
    given = parser.parse_args(arguments)
    try:
        urls = given.workers.split(",")
        for url in urls:
            if urlsplit(url).scheme != "http" or not urlsplit(url).netloc:
                raise InputError(f"--workers {url}: must be http://host:port")
        if not 0 < given.first_byte_timeout_s < math.inf:
            raise InputError(
                f"--first-byte-timeout-s {given.first_byte_timeout_s}: must be positive and finite"
            )
        router = None
        if given.config is not None:
            router = request_router_config(given.config, routing_stats_period_s=given.stats_period_s)
    except InputError as error:
        sys.exit(f"proxies: {error}")
    stopped = threading.Event()
    try:
        url = start(urls, router, given.first_byte_timeout_s, host=given.host, port=given.port)
        for number in (signal.SIGTERM, signal.SIGINT):  # Ray has set its own, which abort
            signal.signal(number, lambda *_: stopped.set())
        print(json.dumps({"url": url}), flush=True)
        while not stopped.wait(1.0):
            pass
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


if __name__ == "__main__":
    # Of classes in a module of this name each process would have its own, and none would know another's.
    from servegym.agents.serving.plugins.ray_serve import proxies

    proxies.main()
