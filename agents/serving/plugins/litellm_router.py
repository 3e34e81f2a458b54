"""LiteLLM: a policy decides which deployment of a model group a request goes to (docs/serving/litellm.md).

    strategy = ServegymStrategy.register(router, "serving.json", report_period_s=0.2)

LiteLLM says which deployments may be asked (cool-downs, limits, teams, tags); of these the policy takes one.
Callbacks say what became of a request. Of one that was cancelled, or whose stream nobody reads to its end,
they say nothing: it is over when nobody holds its id any more.
"""

import asyncio
import threading
import uuid
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import litellm
from litellm.integrations.custom_logger import CustomLogger
from litellm.types.router import CustomRoutingStrategyBase

from servegym.agents.serving.config import load_config, router_from_config
from servegym.agents.serving.routing.load_reports import LoadReports
from servegym.agents.serving.routing.request_features import from_mapping
from servegym.agents.serving.routing.router import NoReplicaError, Router
from servegym.costmodels.errors import InputError

ID_KEY = "servegym_request_id"
"""Under which a request's metadata have its id, which LiteLLM hands back to callbacks."""

_METADATA = ("litellm_metadata", "metadata")
_BODY = ("tools", "user", "prompt", "prompt_cache_key", "priority", "instructions")


class ServegymStrategy(CustomRoutingStrategyBase):
    """The strategy of a `litellm.Router`; `router` is ours, its replicas are the ids of deployments.

    report_period_s: how often the servers at the deployments' `api_base` are asked for their load; None:
    never.
    """

    def __init__(
        self, litellm_router: Any, config: str | Mapping[str, Any], *, report_period_s: float | None = None
    ) -> None:
        self._litellm = litellm_router
        self._names = self._deployment_ids()
        settings = load_config(config) if isinstance(config, str) else config
        self.router: Router = router_from_config(settings, self._names)
        self._in_a_thread = ThreadPoolExecutor(1, thread_name_prefix="servegym litellm")
        self._gone: SimpleQueue[tuple[Router, str]] = SimpleQueue()
        threading.Thread(target=_end_those_gone, args=(self._gone,), daemon=True).start()
        if report_period_s is not None:
            reports = LoadReports(self.router, self._addresses(), period_s=report_period_s)
            threading.Thread(target=asyncio.run, args=(reports.run(),), daemon=True).start()

    @classmethod
    def register(
        cls, litellm_router: Any, config: str | Mapping[str, Any], *, report_period_s: float | None = None
    ) -> "ServegymStrategy":
        """Makes a strategy and gives it to a router. InputError where the configuration is wrong."""
        strategy = cls(litellm_router, config, report_period_s=report_period_s)
        litellm_router.register_plugin(strategy)
        litellm.logging_callback_manager.add_litellm_callback(_ENDINGS)
        return strategy

    async def async_get_available_deployment(
        self,
        model: str,
        messages: Any = None,
        input: Any = None,
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The deployment for a request of `acompletion` and its like."""
        healthy = await self._healthy(model, messages, input, specific_deployment, request_kwargs)
        return self._chosen(healthy, messages, input, request_kwargs)

    def get_available_deployment(
        self,
        model: str,
        messages: Any = None,
        input: Any = None,
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The deployment for a request of `completion` and its like."""
        # LiteLLM lists the healthy ones in a coroutine, and this thread may be running another one.
        asked = self._healthy(model, messages, input, specific_deployment, request_kwargs)
        healthy = self._in_a_thread.submit(asyncio.run, asked).result()
        return self._chosen(healthy, messages, input, request_kwargs)

    async def _healthy(
        self, model: str, messages: Any, input: Any, specific: bool | None, request_kwargs: Any
    ) -> Any:
        return await self._litellm.select(
            model,
            request_kwargs if request_kwargs is not None else {},
            kind="healthy",
            messages=messages,
            input=input,
            specific_deployment=specific,
        )

    def _chosen(self, healthy: Any, messages: Any, input: Any, request_kwargs: dict[str, Any] | None) -> Any:
        """One of `healthy`; they are one deployment where the request has named it."""
        deployments = {str(each["model_info"]["id"]): each for each in _listed(healthy)}
        if not deployments.keys() <= self.router.fleet.index.keys():
            self.router.set_replicas(self._deployment_ids())  # some were added
        kwargs = {} if request_kwargs is None else request_kwargs
        request_id = _RequestId(uuid.uuid4().hex, self.router)
        body = {key: kwargs[key] for key in _BODY if kwargs.get(key) is not None}
        for key, value in (("messages", messages), ("input", input)):
            if value is not None:
                body[key] = value
        request = from_mapping(body, _headers(kwargs))._replace(request_id=str(request_id))
        try:
            name = self.router.route(request, deployments).replica
        except NoReplicaError:  # by our reports nobody is there, by LiteLLM's experience they are
            return _listed(healthy)[0]
        key = _METADATA[0] if _METADATA[0] in kwargs else _METADATA[1]
        # Another object for each attempt: callbacks of the last one may come later.
        kwargs[key] = {**(kwargs.get(key) or {}), ID_KEY: request_id}
        weakref.finalize(request_id, self._gone.put, (self.router, str(request_id))).atexit = False
        return deployments[name]

    def _deployment_ids(self) -> list[str]:
        return [str(each["model_info"]["id"]) for each in self._litellm.registry().all()]

    def _addresses(self) -> dict[str, str]:
        """Where to ask for load; a deployment without an `api_base`, or with TLS, cannot be asked."""
        addresses = {}
        for each in self._litellm.registry().all():
            url = urlsplit(str(each["litellm_params"].get("api_base") or ""))
            if url.scheme == "http" and url.hostname:
                host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
                addresses[str(each["model_info"]["id"])] = f"{host}:{url.port or 80}"
        if not addresses:
            raise InputError("report_period_s: no deployment has an api_base of http://host:port")
        return addresses


class _RequestId(str):
    """The id of a request at a router; what holds it may be copied, and then holds the same one."""

    router: Router

    def __new__(cls, text: str, router: Router) -> "_RequestId":
        request_id = super().__new__(cls, text)
        request_id.router = router
        return request_id

    def __copy__(self) -> "_RequestId":
        return self

    def __deepcopy__(self, memo: Any) -> "_RequestId":
        return self


class _Endings(CustomLogger):
    """Tells routers what became of their requests; LiteLLM takes one callback of a class, for all routers."""

    async def async_log_success_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        self.log_success_event(kwargs, response_obj, start_time, end_time)

    async def async_log_failure_event(
        self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        self.log_failure_event(kwargs, response_obj, start_time, end_time)

    def log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        for request_id in _ids(kwargs):
            # LiteLLM says so when the answer is whole, of a stream too: nobody knows when its tokens came.
            request_id.router.tokens(str(request_id), _output_tokens(response_obj), just_now=False)
            request_id.router.ended(str(request_id))

    def log_failure_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        for request_id in _ids(kwargs):  # LiteLLM may try again: that is another request here
            request_id.router.ended(str(request_id), False)


_ENDINGS = _Endings()


def _end_those_gone(gone: "SimpleQueue[tuple[Router, str]]") -> None:
    """Ends requests whose ids nobody holds any more.

    Python may find that out, while it collects garbage, in any thread at any line, with the lock of a router
    or of its log held. To put something into a SimpleQueue is all that may be done there; this is a thread.
    """
    while True:
        router, request_id = gone.get()
        router.ended(request_id, False)


def _ids(kwargs: Mapping[str, Any]) -> list[_RequestId]:
    params = kwargs.get("litellm_params") or {}
    found = [(params.get(key) or {}).get(ID_KEY) for key in _METADATA]
    return [each for each in found if isinstance(each, _RequestId)]


def _listed(healthy: Any) -> list[Any]:
    return healthy if isinstance(healthy, list) else [healthy]


def _headers(kwargs: Mapping[str, Any]) -> Mapping[str, str]:
    """Those of the client, where LiteLLM's proxy has passed them on, and those set for the call."""
    request = kwargs.get("proxy_server_request") or {}
    return {**(request.get("headers") or {}), **(kwargs.get("extra_headers") or {})}


def _output_tokens(response: Any) -> int:
    usage = getattr(response, "usage", None)
    tokens = getattr(usage, "completion_tokens", None) or getattr(usage, "output_tokens", None)
    return int(tokens or 0)
