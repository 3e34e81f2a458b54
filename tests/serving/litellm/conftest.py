"""OpenAI servers that say who they are, and LiteLLM's router in front of them."""

import asyncio
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from aiohttp import web

# LiteLLM reads these when it is imported: it would fetch a list of prices, and report how it is used.
os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", LITELLM_TELEMETRY="False")

import litellm

from servegym.agents.serving.plugins.litellm_router import ServegymStrategy
from servegym.agents.serving.routing.fleet_view import FleetView
from servegym.agents.serving.routing.router import Router


class Server:
    """An OpenAI server: answers with `max_tokens` tokens after `wait_s`, or fails with `status`."""

    def __init__(self, name: str) -> None:
        self.name, self.wait_s, self.status = name, 0.02, 200
        self.load: dict[str, float] | None = None
        self.seen: Counter[str] = Counter()
        self.running = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen["requests"] += 1
        if self.status != 200:
            return web.json_response({"error": {"message": "told to fail"}}, status=self.status)
        self.running += 1
        try:
            await asyncio.sleep(self.wait_s)
            tokens = body.get("max_tokens", 4)
            usage = {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}
            if not body.get("stream"):
                message = {"role": "assistant", "content": "a " * tokens}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                return web.json_response(self._said(choices=[choice], usage=usage, object="chat.completion"))
            response = web.StreamResponse(headers={"content-type": "text/event-stream"})
            await response.prepare(request)
            for i in range(tokens):
                reason = "stop" if i == tokens - 1 else None
                choice = {"index": 0, "delta": {"content": "a "}, "finish_reason": reason}
                await self._event(response, self._said(choices=[choice], object="chat.completion.chunk"))
                await asyncio.sleep(0.01)
            await self._event(response, self._said(choices=[], usage=usage, object="chat.completion.chunk"))
            await response.write(b"data: [DONE]\n\n")
            return response
        finally:
            self.running -= 1

    async def tell(self, request: web.Request) -> web.Response:
        if self.load is None:
            raise web.HTTPNotFound
        return web.json_response(self.load)

    def _said(self, **others: Any) -> dict[str, Any]:
        return {"id": "x", "created": 1, "model": self.name, **others}

    async def _event(self, response: web.StreamResponse, said: dict[str, Any]) -> None:
        await response.write(b"data: " + json.dumps(said).encode() + b"\n\n")


@pytest.fixture(scope="session")
def run() -> Iterator[Callable[..., Any]]:
    """Runs coroutines, all in one loop: the queue of LiteLLM's callbacks belongs to the first it sees."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="session")
def urls_and_servers(free_port: Callable[[], int]) -> Iterator[dict[str, Server]]:
    """By URL."""
    servers = {f"http://127.0.0.1:{free_port()}": Server(f"s{i}") for i in range(3)}
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def start(url: str, server: Server) -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", server.answer)
        app.router.add_get("/load", server.tell)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(url.rpartition(":")[2])).start()

    for url, server in servers.items():
        asyncio.run_coroutine_threadsafe(start(url, server), loop).result(10)
    yield servers
    loop.call_soon_threadsafe(loop.stop)


@pytest.fixture
def servers(urls_and_servers: dict[str, Server]) -> dict[str, Server]:
    """By the id of their deployment, as new."""
    for server in urls_and_servers.values():
        server.__init__(server.name)  # type: ignore[misc]
    return {server.name: server for server in urls_and_servers.values()}


class Recorder:
    """An observer that keeps decisions with copies of their rows, and how requests ended."""

    def __init__(self) -> None:
        self.decisions: list[tuple[Any, Any, np.ndarray, np.ndarray]] = []
        self.outcomes: list[tuple[str, int, bool]] = []
        self.ttfts_s: list[float] = []

    def decided(self, decision: Any, request: Any, features: np.ndarray, replicas: np.ndarray) -> None:
        self.decisions.append((decision, request, features.copy(), replicas.copy()))

    def refused(self, request: Any) -> None:
        pass

    def ended(self, request_id: str, output_tokens: int, ttft_s: float, latency_s: float, ok: bool) -> None:
        self.ttfts_s.append(ttft_s)
        self.outcomes.append((request_id, output_tokens, ok))


def deployment(url: str, name: str) -> dict[str, Any]:
    params = {"model": f"openai/{name}", "api_key": "k", "api_base": f"{url}/v1"}
    return {"model_name": "m", "litellm_params": params, "model_info": {"id": name}}


Made = tuple[litellm.Router, ServegymStrategy, Recorder]


@pytest.fixture
def make(urls_and_servers: dict[str, Server], servers: dict[str, Server]) -> Callable[..., Made]:
    """make(policy, report_period_s=..., **options of litellm.Router); without a policy least_loaded."""

    def make(policy: Any = None, report_period_s: float | None = None, **options: Any) -> Made:
        deployments = [deployment(url, server.name) for url, server in urls_and_servers.items()]
        router = litellm.Router(
            model_list=deployments, **{"num_retries": 0, "disable_cooldowns": True, **options}
        )
        config = {"policy": {"heuristic": "least_loaded"}}
        strategy = ServegymStrategy.register(router, config, report_period_s=report_period_s)
        recorder = Recorder()
        if policy is not None:
            strategy.router = Router(policy, FleetView([server.name for server in servers.values()]))
        strategy.router.observers.append(recorder)
        return router, strategy, recorder

    return make
