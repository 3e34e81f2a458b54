"""Asks workers with the standard library's client, in threads, while they serve in the loop."""

import asyncio
import functools
import http.client
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from servegym.envs.scenario import Scenario, load_scenario
from servegym.experiments.emulation.worker import WorkerSettings
from servegym.experiments.emulation.workers import EmulatedWorkers

SMALL = ("scenario.fleet.replicas=2", "scenario.workload.rate_rps=60", "scenario.workload.test_s=40")


@functools.cache
def _scenario(overrides: tuple[str, ...]) -> Scenario:
    return load_scenario("generated_8xh100", overrides)


class Answered(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[dict[str, Any]]:
        """Of a stream that came to its end."""
        *events, end = self.body.decode().removesuffix("\n\n").split("\n\n")
        assert end == "data: [DONE]"
        return [json.loads(event.removeprefix("data: ")) for event in events]


@asynccontextmanager
async def workers_of(*overrides: str, **settings: Any) -> AsyncIterator[EmulatedWorkers]:
    """Two small workers, quick ones unless told otherwise."""
    workers = EmulatedWorkers(
        _scenario((*SMALL, *overrides)),
        WorkerSettings(**{"model": "small", "time_scale": 0.01, **settings}),
    )
    await workers.start()
    try:
        yield workers
    finally:
        workers.stop()


async def ask(
    url: str, method: str, path: str, body: Any = None, timeout_s: float = 30.0, **headers: str
) -> Answered:
    """One request, body as JSON unless it is bytes; TimeoutError, ConnectionError as they come."""

    def exchange() -> Answered:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, data, named)
            response = connection.getresponse()
            given = {name.lower(): value for name, value in response.getheaders()}
            return Answered(response.status, given, response.read())
        finally:
            connection.close()

    return await asyncio.to_thread(exchange)


class Sample(NamedTuple):
    name: str
    labels: dict[str, str]
    value: float


_SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)\{((?:[a-z_]+="[^"\\]*",?)*)\} (\S+)')


def parse_metrics(page: str) -> list[Sample]:
    """Prometheus text, strictly: every family has help and type in front of its samples, and comes once."""
    samples: list[Sample] = []
    types: dict[str, str] = {}
    assert page.endswith("\n")
    for line in page.splitlines():
        if line.startswith("# HELP "):
            assert line.split(" ")[2] not in types
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert kind in ("gauge", "counter", "histogram")
            types[name] = kind
        else:
            match = _SAMPLE.fullmatch(line)
            assert match is not None, line
            name, labels, value = match.groups()
            family = re.sub("_(bucket|count|sum)$", "", name)
            assert types.get(name) in ("gauge", "counter") or types.get(family) == "histogram", line
            assert types.get(name) != "counter" or name.endswith("_total")
            samples.append(Sample(name, dict(re.findall('([a-z_]+)="([^"]*)"', labels)), float(value)))
    return samples
