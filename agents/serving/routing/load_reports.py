"""Asks replicas how loaded they are, and tells the router; a replica that does not answer is not available.

A replica answers GET /load with one JSON object of REPORT_COLUMNS (`fleet_view.py`), as emulated workers and
engines with this project's plugin do. Any other vLLM is read from its GET /metrics. What a replica does not
say the router knows from its own books.
"""

import asyncio
import json
import logging
import random
import re
from collections.abc import Mapping
from contextlib import suppress
from math import isfinite

from servegym.agents.serving.routing.fleet_view import REPORT_COLUMNS
from servegym.agents.serving.routing.router import Router
from servegym.costmodels.errors import InputError

MAX_REPORT_BYTES = 4 << 20

_LOG = logging.getLogger("servegym.load_reports")

_SAMPLE = re.compile(r"^((?:vllm|servegym):[a-z_]+)(?:\{(.*)\})? ([-+.0-9eE]+)(?: \d+)?$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
AGE = "age_s"
"""How old the numbers of a JSON report are, where it says so: engines look at themselves now and then."""

_OF_EACH_ENGINE = ("iteration_left_s", "speed")
"""Of several engines the mean, of anything else the sum."""


class NoAnswer(Exception):
    """A replica says that it cannot serve."""


class LoadReports:
    """Polls replicas every `period_s` seconds, each by itself and not in step with the others.

    addresses: where each replica reports, "host:port" by its name. timeout_s: how long one may take.
    failures: misses in a row that make a replica unavailable; one answer makes it available again.
    """

    def __init__(
        self,
        router: Router,
        addresses: Mapping[str, str],
        *,
        period_s: float = 0.2,
        timeout_s: float = 0.5,
        failures: int = 3,
    ) -> None:
        for name, value in (("period_s", period_s), ("timeout_s", timeout_s), ("failures", failures)):
            if not value > 0:
                raise InputError(f"{name} = {value}: must be > 0")
        for where in addresses.values():
            address(where)
        self._router, self._addresses = router, dict(addresses)
        self._period_s, self._timeout_s, self._failures = period_s, timeout_s, failures
        self._noted: set[str] = set()

    async def run(self) -> None:
        """Polls until it is cancelled; never raises for what a replica does."""
        async with asyncio.TaskGroup() as group:
            for replica, where in self._addresses.items():
                group.create_task(self._poll(replica, where))

    async def _poll(self, replica: str, where: str) -> None:
        misses, path = 0, "/load"
        await asyncio.sleep(random.random() * self._period_s)
        while True:
            asked_s = self._router.clock()
            try:
                # Not wait_for, which in Python 3.11 can miss a cancellation.
                async with asyncio.timeout(self._timeout_s):
                    numbers, path = await read_load(where, path)
            except Exception as error:  # what one replica says must not end the polling of the others
                misses += 1
                if misses == self._failures:
                    _LOG.warning("%s is unavailable: %s", replica, type(error).__name__)
                    self._tell(replica, available=False)
            else:
                if misses >= self._failures:
                    _LOG.warning("%s is available again", replica)
                    self._tell(replica, available=True)
                misses = 0
                self._report(replica, numbers, asked_s)
            await asyncio.sleep(self._period_s * random.uniform(0.9, 1.1))

    def _tell(self, replica: str, *, available: bool) -> None:
        with suppress(InputError):  # the fleet may have lost it meanwhile
            self._router.set_available(replica, available)

    def _report(self, replica: str, numbers: dict[str, float], asked_s: float) -> None:
        try:
            if numbers:
                age_s = max(0.0, numbers.pop(AGE, 0.0))
                self._router.report(replica, numbers, asked_s - age_s)
        except InputError as error:
            if replica not in self._noted:
                self._noted.add(replica)
                _LOG.warning("a report is not used: %s; said once", error)


async def read_load(where: str, path: str = "/load") -> tuple[dict[str, float], str]:
    """What the replica at an address says of itself, and under which path it is to be asked next.

    Nothing where it says nothing that is understood. NoAnswer where it cannot serve; what `get` raises where
    it is not there or speaks no HTTP.
    """
    status, body = await get(where, path)
    if status >= 500:
        raise NoAnswer(f"status {status}")
    if path == "/load":
        numbers = json_report(body) if status == 200 else {}
        if numbers:
            return numbers, path
        return await read_load(where, "/metrics")  # vLLM's own /load has but one number
    return (vllm_report(body.decode("utf-8", "replace")) if status == 200 else {}), path


def json_report(body: bytes) -> dict[str, float]:
    """Of a JSON report what has a name in REPORT_COLUMNS, and its AGE, where that is a finite number."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(said, dict):
        return {}
    numbers = {}
    for name in (*REPORT_COLUMNS, AGE):
        value = said.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            with suppress(OverflowError):  # an integer beyond all floats
                numbers[name] = float(value)
    return _finite(numbers)


def vllm_report(metrics: str) -> dict[str, float]:
    """A report of finite numbers from the metrics of vLLM; several engines at one address are put together.

    What this project's plugin adds (`servegym:NAME`) goes before what vLLM itself says about the same.
    """
    said: dict[str, list[float]] = {}
    for name, labels, value in _SAMPLE.findall(metrics):
        if name == "vllm:cache_config_info":
            value = dict(_LABEL.findall(labels)).get("num_gpu_blocks", "")
        with suppress(ValueError):  # None, until vLLM knows
            said.setdefault(name, []).append(float(value))
    own = {"running": "vllm:num_requests_running", "waiting": "vllm:num_requests_waiting"}
    numbers = {name: sum(said[metric]) for name, metric in own.items() if metric in said}
    blocks = sum(said.get("vllm:cache_config_info", []))
    usage = said.get("vllm:kv_cache_usage_perc") or said.get("vllm:gpu_cache_usage_perc")
    if usage and blocks:
        numbers["kv_total_blocks"] = blocks
        used = sum(usage) / len(usage) * blocks
        if isfinite(used):
            numbers["kv_used_blocks"] = round(used)
    ours = {
        name: sum(values) / (len(values) if name in _OF_EACH_ENGINE else 1)
        for name in REPORT_COLUMNS
        if (values := said.get(f"servegym:{name}"))
    }
    return _finite(numbers) | _finite(ours)


def _finite(numbers: dict[str, float]) -> dict[str, float]:
    return {name: number for name, number in numbers.items() if isfinite(number)}


async def get(where: str, path: str) -> tuple[int, bytes]:
    """Status and body of GET http://where/path, on a connection of its own.

    OSError without a connection, EOFError and LimitOverrunError for an answer that breaks off or whose head
    does not end, ValueError for what is no HTTP, or longer than MAX_REPORT_BYTES.
    """
    host, port = address(where)
    reader, writer = await asyncio.open_connection(host, port)
    try:
        # HTTP/1.0: the body is not in chunks and ends with the connection.
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {where}\r\nConnection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        protocol, _, status = first.partition(" ")
        if not protocol.startswith("HTTP/1.") or not status[:3].isdecimal():
            raise ValueError("no HTTP")
        fields = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in fields}
        return int(status[:3]), await _body(reader, headers.get("content-length"))
    finally:
        writer.close()


async def _body(reader: asyncio.StreamReader, size: str | None) -> bytes:
    if size is not None:
        if not size.isdecimal() or int(size) > MAX_REPORT_BYTES:
            raise ValueError("too long")
        return await reader.readexactly(int(size))
    try:
        await reader.readexactly(MAX_REPORT_BYTES + 1)
    except asyncio.IncompleteReadError as all_of_it:
        return all_of_it.partial
    raise ValueError("too long")


def address(where: str) -> tuple[str, int]:
    """Of "host:port", an IPv6 address in brackets; InputError where it is none."""
    host, _, port = where.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise InputError(f"address = {where}: must be host:port")
    return host, int(port)
