"""Starts a router of any family in front of given workers, and ends it.

with start_router("smg", "cache_aware", worker_urls, python, folder) as router:
    ...  # send requests to router.url
"""

import contextlib
import re
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from servegym.costmodels.errors import InputError
from servegym.experiments.serving_routers.child_process import ChildProcess
from servegym.experiments.serving_routers.envoy import ENVOY
from servegym.experiments.serving_routers.router_family import Launch, RouterFamily
from servegym.experiments.serving_routers.sglang_router import SGLANG_ROUTER
from servegym.experiments.serving_routers.smg import SMG
from servegym.experiments.serving_routers.vllm_router import VLLM_ROUTER

FAMILIES = {family.name: family for family in (ENVOY, SGLANG_ROUTER, SMG, VLLM_ROUTER)}

READY_S = 120.0
"""How long a router may take until it has found all workers."""

POLL_S = 0.05


class RunningRouter:
    """A router that sends what arrives at `url` to its workers, until `stop` or the end of a `with`."""

    def __init__(self, url: str, process: ChildProcess) -> None:
        self.url = url
        self._process = process

    @property
    def running(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process.running

    def stop(self) -> None:
        """Ends it, and requests under way with it."""
        self._process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_router(
    family: str,
    policy: str,
    worker_urls: Sequence[str],
    python: str,
    folder: Path,
    options: Sequence[str] = (),
) -> RunningRouter:
    """Starts it on a free port of loopback and waits until it knows all workers, which run already.

    `python` is that of an environment that has the router (tests/serving/routers/requirements.txt). `folder`
    takes its configuration and its log. `options` are more arguments of its command line. Raises InputError
    for an unknown family or policy, for workers that are no http://HOST:PORT, and where the router ends or
    does not find all workers in time.
    """
    router = find_family(family, policy)
    _check(worker_urls)
    with contextlib.ExitStack() as ports:
        port, metrics_port = (_reserve_port(ports) for _ in range(2))
    launch = Launch(python, policy, worker_urls, port, metrics_port, folder, options)
    log = folder / "router.log"
    process = ChildProcess(router.command(launch), log)
    running = RunningRouter(f"http://127.0.0.1:{port}", process)
    try:
        _wait_until_ready(router, running, len(worker_urls), log)
    except BaseException:
        running.stop()
        raise
    return running


def find_family(family: str, policy: str) -> RouterFamily:
    """The family, which has that policy. Raises InputError if there is none."""
    if family not in FAMILIES:
        raise InputError(f"router: unknown family '{family}', allowed are {', '.join(FAMILIES)}")
    found = FAMILIES[family]
    if policy not in found.policies:
        raise InputError(
            f"router {family}: unknown policy '{policy}', allowed are {', '.join(found.policies)}"
        )
    return found


def _check(worker_urls: Sequence[str]) -> None:
    if not worker_urls:
        raise InputError("router: no workers, it needs the URL of one at least")
    for url in worker_urls:
        if not re.fullmatch(r"http://[\w.-]+:\d+", url):
            raise InputError(f"router: a worker at '{url}', allowed is http://HOST:PORT")


def _reserve_port(ports: contextlib.ExitStack) -> int:
    """One that is free, and that nobody else is given before `ports` is closed."""
    return int(ports.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1])


def _wait_until_ready(router: RouterFamily, running: RunningRouter, num_workers: int, log: Path) -> None:
    end_s = time.monotonic() + READY_S
    while time.monotonic() < end_s:
        if not running.running:
            lines = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
            raise InputError(f"router {router.name}: ended at its start and said '{lines[-1]}' ({log})")
        with contextlib.suppress(OSError):  # among them that it answers, but is not ready
            if router.is_ready(running.url, num_workers):
                return
        time.sleep(POLL_S)
    raise InputError(f"router {router.name}: found no {num_workers} healthy workers in {READY_S:g} s ({log})")
