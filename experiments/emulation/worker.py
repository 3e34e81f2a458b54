"""One emulated worker: an OpenAI-compatible server in front of a replica, as vLLM is in front of a GPU."""

import itertools
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from servegym.agents.serving.routing.fleet_view import REPORT_COLUMNS
from servegym.agents.serving.routing.request_features import PREDICTED_HEADER
from servegym.agents.serving.telemetry.page_server import PROMETHEUS
from servegym.experiments.emulation import sglang_state
from servegym.experiments.emulation.answers import Answer, StreamedAnswer, WholeAnswer
from servegym.experiments.emulation.fleet import Arrival, CannotServe, EmulatedFleet, FleetIsFull
from servegym.experiments.emulation.http_server import HttpServer, Reply, Request
from servegym.experiments.emulation.live_engine import LiveEngine
from servegym.experiments.emulation.metrics import WorkerMetrics
from servegym.experiments.emulation.openai_api import Asked, BadRequest, error_body, read_request
from servegym.experiments.emulation.prompts import block_keys, num_tokens, token_ids

VLLM_VERSION = "0.33.0"
"""Whose interface this is."""

REPLICA_HEADER = "x-servegym-replica"
"""Of every answer: the number of the replica."""


class WorkerSettings(NamedTuple):
    """What all workers of a fleet share.

    model: name it is served under. time_scale: seconds on the wall of one of the model. stream_interval:
    tokens of an event, after the first. hold_head: the head of a stream comes with its first token, so that a
    proxy may still try another replica while a request waits; False: at once, as vLLM's. admin: POST
    /admin/... is there.
    """

    model: str
    time_scale: float = 1.0
    stream_interval: int = 1
    hold_head: bool = False
    admin: bool = False


class Worker:
    """The server of one replica."""

    def __init__(
        self, fleet: EmulatedFleet, replica_id: int, engine: LiveEngine, settings: WorkerSettings
    ) -> None:
        self.replica_id, self.engine = replica_id, engine
        self.server = HttpServer(self.handle, {REPLICA_HEADER: str(replica_id)})
        self.metrics = WorkerMetrics()
        self._fleet, self._settings = fleet, settings
        self._config = fleet.engines[replica_id]
        self._numbers = itertools.count()
        self._held: list[tuple[Request, Reply]] | None = None  # what has come while it is paused
        self._routes = self._all_routes()

    @property
    def max_model_len(self) -> int:
        """The most tokens of a prompt and its output together."""
        return self._config.num_kv_blocks * self._config.block_size

    def report(self) -> dict[str, float]:
        """What `GET /load` says: the state of the replica now, as a router in the simulator sees it."""
        row = self.engine.row()
        counts = self._fleet.counts[self.replica_id]
        return {
            **{name: value for name, value in row.items() if name in REPORT_COLUMNS},
            "time_s": self.engine.now_s(),
            "time_scale": self._settings.time_scale,
            "received_requests": counts.received_requests,
            "received_prompt_tokens": counts.received_prompt_tokens,
        }

    def handle(self, request: Request, reply: Reply) -> None:
        """Answers one request; all but those of /admin wait where the worker is paused."""
        if self._held is not None and not request.path.startswith("/admin/"):
            self._held.append((request, reply))
            return
        route = self._routes.get((request.method, request.path))
        if route is None:
            paths = {path for _, path in self._routes}
            status = 405 if request.path in paths else 404
            reply.send_json(status, error_body(status, f"{request.method} {request.path}: there is none"))
            return
        try:
            route(request, reply)
        except BadRequest as error:
            reply.send_json(400, error_body(400, str(error)))

    def _all_routes(self) -> dict[tuple[str, str], Callable[[Request, Reply], None]]:
        routes: dict[tuple[str, str], Callable[[Request, Reply], None]] = {
            ("POST", "/v1/completions"): lambda request, reply: self._complete(request, reply, chat=False),
            ("POST", "/v1/chat/completions"): lambda request, reply: self._complete(
                request, reply, chat=True
            ),
            ("POST", "/v1/completions/render"): lambda request, reply: self._render(
                request, reply, chat=False
            ),
            ("POST", "/v1/chat/completions/render"): lambda request, reply: self._render(
                request, reply, chat=True
            ),
            ("POST", "/tokenize"): self._tokenize,
            ("GET", "/metrics"): self._metrics,
        }
        model = self._settings.model
        answers: dict[str, Callable[[], Any]] = {
            "/health": dict,
            "/health_generate": dict,
            "/ping": dict,
            "/version": lambda: {"version": VLLM_VERSION},
            "/v1/models": self._models,
            "/load": self.report,
            "/get_load": lambda: sglang_state.load(self.report()),
            "/v1/loads": lambda: sglang_state.loads(self.report(), self._config),
            "/model_info": lambda: sglang_state.model_info(model),
            "/get_model_info": lambda: sglang_state.model_info(model),
            "/server_info": lambda: sglang_state.server_info(model, VLLM_VERSION, self._config),
            "/get_server_info": lambda: sglang_state.server_info(model, VLLM_VERSION, self._config),
        }
        for path, answer in answers.items():
            routes["GET", path] = _answering(answer)
        if self._settings.admin:
            routes["POST", "/admin/pause"] = self._pause
            routes["POST", "/admin/resume"] = self._resume
            routes["POST", "/admin/kill"] = self._kill
        return routes

    def _complete(self, request: Request, reply: Reply, *, chat: bool) -> None:
        asked = read_request(_json(request), request.headers, chat=chat)
        answer = self._answer(asked, reply, chat)
        caches = self._config.prefix_caching
        arrival = Arrival(
            num_tokens(asked.prompt),
            asked.max_tokens,
            _predicted(request.headers.get(PREDICTED_HEADER)),
            asked.priority,
            *([block_keys(asked.prompt, self._config.block_size)] if caches else []),
        )
        try:
            slot = self.engine.submit(arrival, answer)
        except CannotServe as error:
            raise BadRequest(
                f"This model's maximum context length is {self.max_model_len} tokens. However, you requested "
                f"{asked.max_tokens} output tokens and your prompt contains {arrival.prompt_tokens} tokens "
                f"({error})"
            ) from None
        except FleetIsFull as error:
            reply.send_json(503, error_body(503, str(error)))
            return
        answer.begin()
        reply.on_close = lambda: self.engine.cancel(slot)

    def _answer(self, asked: Asked, reply: Reply, chat: bool) -> Answer:
        number = next(self._numbers)
        common: dict[str, Any] = {
            "model": self._settings.model,
            "request_id": asked.request_id or f"replica{self.replica_id}-{number}",
            "chat": chat,
            "prompt_tokens": num_tokens(asked.prompt),
            "output_tokens": asked.max_tokens,
            "arrival_s": self.engine.now_s(),
        }
        if not asked.stream:
            return WholeAnswer(reply, self.metrics, **common)
        return StreamedAnswer(
            reply,
            self.metrics,
            interval=self._settings.stream_interval,
            include_usage=asked.include_usage,
            hold_head=self._settings.hold_head,
            **common,
        )

    def _tokenize(self, request: Request, reply: Reply) -> None:
        body = _json(request)
        chat = isinstance(body, dict) and "messages" in body
        prompt = read_request(body, {}, chat=chat).prompt
        ids = token_ids(prompt)
        reply.send_json(200, {"count": len(ids), "max_model_len": self.max_model_len, "tokens": ids})

    def _render(self, request: Request, reply: Reply, *, chat: bool) -> None:
        """The tokens that a request would be served with."""
        asked = read_request(_json(request), request.headers, chat=chat)
        rendered = {
            "request_id": asked.request_id or "rendered",
            "token_ids": token_ids(asked.prompt),
            "sampling_params": {"max_tokens": asked.max_tokens},
            "model": self._settings.model,
        }
        reply.send_json(200, rendered if chat else [rendered])

    def _metrics(self, _: Request, reply: Reply) -> None:
        page = self.metrics.page(
            self.report(),
            self._fleet.counts[self.replica_id],
            model=self._settings.model,
            engine=self.replica_id,
            block_size=self._config.block_size,
        )
        reply.send(200, page.encode(), PROMETHEUS)

    def _models(self) -> dict[str, Any]:
        model = self._settings.model
        entry = {
            "id": model,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "servegym",
            "root": model,
            "parent": None,
            "max_model_len": self.max_model_len,
        }
        return {"object": "list", "data": [entry]}

    # Faults, for tests of what stands in front.

    def _pause(self, _: Request, reply: Reply) -> None:
        self.engine.pause()
        if self._held is None:
            self._held = []
        reply.send_json(200, {"paused": True})

    def _resume(self, _: Request, reply: Reply) -> None:
        self.engine.resume()
        held, self._held = self._held or [], None
        reply.send_json(200, {"paused": False})
        for each in held:
            if not each[1].closed:
                self.handle(*each)

    def _kill(self, _: Request, reply: Reply) -> None:
        self.server.stop()


def _answering(answer: Callable[[], Any]) -> Callable[[Request, Reply], None]:
    return lambda _, reply: reply.send_json(200, answer())


def _json(request: Request) -> Any:
    try:
        return json.loads(request.body)
    except (ValueError, RecursionError):
        raise BadRequest("the body must be JSON") from None


def _predicted(header: str | None) -> int:
    """0 where nobody predicts, or nothing that makes sense."""
    try:
        return min(max(0, round(float(header or 0))), 2**31 - 1)
    except (ValueError, OverflowError):
        return 0
