"""The load of a vLLM engine as routers are told it: numbers of docs/simulator.md, "What a router sees".

The scheduler lives in the engine's process, not in the API server's. Its load is told by a small server of
its own (GET /load) and, where PROMETHEUS_MULTIPROC_DIR names a folder, by gauges in vLLM's own /metrics,
which vLLM then collects from all its processes.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from servegym.agents.serving.plugins.vllm_state import KvPool, predicted_output_tokens
from servegym.agents.serving.routing.fleet_view import REPORT_COLUMNS
from servegym.agents.serving.telemetry.page_server import Page, PageServer
from servegym.costmodels.errors import InputError

LOOK_SHARE = 0.05
"""Of its time, that an engine spends at most on looking at its own load."""


@dataclass(frozen=True)
class LoadSettings:
    """load_port: of GET /load; 0: none. load_host: where it listens."""

    load_port: int = 0
    load_host: str = "127.0.0.1"

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "LoadSettings":
        """From the `servegym` object of `additional_config`. InputError for another key or type."""
        known = {each.name: each.type for each in fields(cls)}
        for key, value in given.items():
            if key == "config":
                continue
            if key not in known:
                raise InputError(f"servegym.{key}: must be one of config, {', '.join(known)}")
            if not isinstance(value, type(getattr(cls, key))) or isinstance(value, bool):
                raise InputError(f"servegym.{key} = {value!r}: must be {type(getattr(cls, key)).__name__}")
        settings = cls(**{key: value for key, value in given.items() if key != "config"})
        if not 0 <= settings.load_port < 1 << 16:
            raise InputError(f"servegym.load_port = {settings.load_port}: must be from 0 to 65535")
        return settings


class IterationTimes:
    """Running averages of how long iterations take: without prefills, and what a token of prefill adds."""

    def __init__(self) -> None:
        self.decode_s, self.s_per_prefill_token = 0.0, 0.0

    def observe(self, prefill_tokens: int, duration_s: float) -> None:
        """An iteration took so long."""
        if not prefill_tokens:
            self.decode_s = _nearer(self.decode_s, duration_s)
        else:
            rest_s = max(0.0, duration_s - self.decode_s)
            self.s_per_prefill_token = _nearer(self.s_per_prefill_token, rest_s / prefill_tokens)

    def expected_s(self, prefill_tokens: int) -> float:
        """Of an iteration; 0 before any was seen."""
        return self.decode_s + prefill_tokens * self.s_per_prefill_token


def _nearer(average: float, value: float) -> float:
    return value if average == 0.0 else average + 0.1 * (value - average)


class Load:
    """What an engine reports. Its scheduler says what it scheduled and completed, in its own thread.

    `report` may be called by any thread. Requests without a prediction count as 0 in the predicted tokens.
    """

    def __init__(self, scheduler: Any, gauges: "Gauges | None" = None) -> None:
        self._scheduler, self._gauges = scheduler, gauges
        self._times = IterationTimes()
        self._under_way: list[tuple[int, float]] = []  # prefill tokens and start of iterations in flight
        self._released_tokens, self._iterations = 0, 0
        self._ends_s = 0.0  # when the iterations in flight will be over
        self._next_look_s = 0.0
        self._seen: tuple[float, dict[str, float]] = (0.0, {})  # when, and what
        self.look()

    def scheduled(self, output: Any) -> None:
        """An iteration has been scheduled."""
        if output.total_num_scheduled_tokens:
            requests, prefill_tokens = self._scheduler.requests, 0
            for request_id, tokens in output.num_scheduled_tokens.items():
                if tokens > 1 + len(output.scheduled_spec_decode_tokens.get(request_id, ())) or (
                    requests[request_id].is_prefill_chunk
                ):
                    prefill_tokens += tokens
            now_s = time.monotonic()
            self._ends_s = max(now_s, self._ends_s) + self._times.expected_s(prefill_tokens)
            self._under_way.append((prefill_tokens, now_s))
        if time.monotonic() >= self._next_look_s:
            self.look()

    def completed(self, served: Iterable[Any]) -> None:
        """The oldest iteration in flight is over; `served`: its requests (None for any that was gone)."""
        for request in served:
            if request is not None and request.is_finished():
                self._released_tokens += request.num_tokens - 1
        if self._under_way:
            prefill_tokens, began_s = self._under_way.pop(0)
            now_s = time.monotonic()
            self._iterations += 1
            self._times.observe(prefill_tokens, now_s - began_s)
            if not self._under_way:
                self._ends_s = 0.0
        if not self._scheduler.running:
            self.look()

    def report(self) -> dict[str, float]:
        """The numbers, by the names of REPORT_COLUMNS, as they were `age_s` ago.

        An engine with nothing to do is as it was: the age is 0.
        """
        seen_s, numbers = self._seen
        idle = not numbers["running"] and not numbers["waiting"]
        return {**numbers, "age_s": 0.0 if idle else time.monotonic() - seen_s}

    def look(self) -> None:
        """Brings the report up to date; in the engine's thread."""
        began_s = time.monotonic()
        per_iteration = self._released_tokens / self._iterations if self._iterations else 0.0
        numbers = numbers_of(self._scheduler)
        numbers["iteration_left_s"] = max(0.0, self._ends_s - began_s)
        numbers["kv_released_per_iteration"] = per_iteration
        self._seen = began_s, numbers
        if self._gauges is not None:
            self._gauges.show(numbers)
        ended_s = time.monotonic()
        self._next_look_s = ended_s + (ended_s - began_s) / LOOK_SHARE


def numbers_of(scheduler: Any) -> dict[str, float]:
    """What a report says of requests and blocks.

    Tokens are as of the last completed iteration; requests and blocks as of the last scheduled one.
    """
    queued = outstanding = context = 0
    predicted = 0.0
    waiting = [*scheduler.kv_holding_waiting, *scheduler.waiting]
    for request in waiting:
        known = request.num_tokens
        queued += known - request.num_computed_tokens
        outstanding += known
        predicted += _remaining(request)
    for request in scheduler.running:
        known = request.num_tokens
        outstanding += known
        predicted += _remaining(request)
        completed = request.num_computed_tokens - request.num_in_flight_tokens
        if request.is_prefill_chunk:
            queued += known - request.num_computed_tokens
        elif request.num_output_tokens and completed >= known - 1:
            context += completed
    pool = KvPool(scheduler)
    return {
        "running": len(scheduler.running),
        "waiting": len(waiting),
        "queued_prefill_tokens": queued,
        "outstanding_tokens": outstanding,
        "decode_context_tokens": context,
        "kv_used_blocks": pool.num_blocks - pool.free_blocks,
        "kv_total_blocks": pool.num_blocks,
        "predicted_remaining_tokens": max(0.0, predicted),
    }


def _remaining(request: Any) -> float:
    predicted = predicted_output_tokens(request)
    return predicted - request.num_output_tokens if predicted else 0.0


class Gauges:
    """The report in vLLM's /metrics, as `servegym:<name>` with the label `engine`."""

    def __init__(self, names: Iterable[str], engine: int) -> None:
        from prometheus_client import Gauge

        self._gauges = {
            name: Gauge(
                f"servegym:{name}",
                f"{name} of the engine, for routers.",
                ["engine"],
                multiprocess_mode="livemostrecent",
            ).labels(str(engine))
            for name in names
        }

    def show(self, report: Mapping[str, float]) -> None:
        """Sets those that there are."""
        for name, gauge in self._gauges.items():
            gauge.set(report[name])


NAMES = tuple(name for name in REPORT_COLUMNS if name != "speed")
"""What is reported: a speed is not the engine's to say."""


def start_load(scheduler: Any, settings: LoadSettings, engine: int) -> Load | None:
    """The load of an engine, told in the ways that are set up; None where none is.

    Engines of one API server (data parallel) listen on ports in a row. InputError where a port is taken.
    """
    multiprocess = bool(os.environ.get("PROMETHEUS_MULTIPROC_DIR"))
    if not settings.load_port and not multiprocess:
        return None
    load = Load(scheduler, Gauges(NAMES, engine) if multiprocess else None)
    if settings.load_port:
        page = Page("application/json", lambda: json.dumps(load.report()).encode())
        PageServer({"/load": page}, host=settings.load_host, port=settings.load_port + engine)
    return load
