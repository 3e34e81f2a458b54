"""Starts a contestant in front of workers that run already."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from urllib.parse import urlsplit

from servegym.agents.serving.config import ServingConfig
from servegym.agents.serving.plugins.endpoint_picker.envoy_config import EnvoySetup, envoy_config
from servegym.costmodels.errors import InputError
from servegym.experiments.live_comparison.children import (
    READY_S,
    first_answer,
    module_command,
    package_folder,
)
from servegym.experiments.live_comparison.contestant import PICKER, RAY, Contestant
from servegym.experiments.serving_routers.child_process import ChildProcess
from servegym.experiments.serving_routers.start import start_router

PLUGINS = "servegym.agents.serving.plugins"
POLL_S = 0.05

DECISIONS = "decisions.jsonl"
"""Their log, in the folder of one of ours."""


@contextlib.contextmanager
def front(
    contestant: Contestant,
    worker_urls: Sequence[str],
    serving: ServingConfig | None,
    report_period_s: float,
    pythons: Mapping[str, str | None],
    folder: Path,
) -> Iterator[str]:
    """The URL of the router while it runs. Its files and logs go to `folder`.

    serving: how ours decides. report_period_s: on the wall, how often it asks the workers. InputError
    where its environment is not given, or where it does not start.
    """
    python = require_python(contestant, pythons)
    folder.mkdir(parents=True)
    if contestant.family == PICKER:
        assert serving is not None
        with _picker(worker_urls, serving, report_period_s, python, folder) as url:
            yield url
    elif contestant.family == RAY:
        with _ray(worker_urls, serving, report_period_s, python, folder) as url:
            yield url
    else:
        with start_router(contestant.family, contestant.policy, worker_urls, python, folder) as running:
            yield running.url


def require_python(contestant: Contestant, pythons: Mapping[str, str | None]) -> str:
    """That of the environment which has a contestant; InputError where it is not given."""
    python = pythons.get(contestant.environment)
    if python is None:
        raise InputError(
            f"python.{contestant.environment}: must be given for {contestant.name}: the python of an "
            f"environment with tests/serving/{contestant.environment}/requirements.txt (make live makes it)"
        )
    return python


@contextlib.contextmanager
def _picker(
    worker_urls: Sequence[str], serving: ServingConfig, report_period_s: float, python: str, folder: Path
) -> Iterator[str]:
    """Envoy, and beside it the endpoint picker that it asks about every request."""
    config = _write_config(serving, folder)
    picker, envoy = (f"127.0.0.1:{port}" for port in free_ports(2))
    replicas = [urlsplit(url).netloc for url in worker_urls]
    arguments = [
        *("--config", str(config), "--replicas", ",".join(replicas), "--listen", picker),
        *("--report-period-s", str(report_period_s)),
    ]
    path = package_folder(folder / "package")
    command = module_command(python, f"{PLUGINS}.endpoint_picker", path, arguments)
    setup = EnvoySetup(replicas, picker=picker, listen=envoy, first_byte_timeout_s=600.0, trusts_clients=True)
    (folder / "envoy.json").write_text(json.dumps(envoy_config(setup), indent=2))
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn"]
    envoy_command = [python, "-I", "-m", "envoy._main", "--config-path", str(folder / "envoy.json"), *options]
    with (
        running(command, folder / "picker.log") as picker_process,
        running(envoy_command, folder / "envoy.log") as envoy_process,
    ):
        _wait_for(picker, picker_process, folder / "picker.log")
        _wait_for(envoy, envoy_process, folder / "envoy.log")
        time.sleep(5 * report_period_s + 1.0)  # every worker has been asked, and been found healthy
        yield f"http://{envoy}"


@contextlib.contextmanager
def _ray(
    worker_urls: Sequence[str],
    serving: ServingConfig | None,
    report_period_s: float,
    python: str,
    folder: Path,
) -> Iterator[str]:
    """Ray Serve on a cluster of its own, a Serve replica before each worker."""
    (port,) = free_ports(1)
    arguments = [
        "--workers",
        ",".join(worker_urls),
        "--port",
        str(port),
        "--stats-period-s",
        str(report_period_s),
    ]
    if serving is not None:
        arguments += ["--config", str(_write_config(serving, folder))]
    path = package_folder(folder / "package")
    command = module_command(python, f"{PLUGINS}.ray_serve.proxies", path, arguments)
    with running(command, folder / "ray.log") as process:
        yield str(first_answer(process, folder / "ray.log")["url"])


@contextlib.contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[ChildProcess]:
    """A program that ends with the block."""
    process = ChildProcess(command, log)
    try:
        yield process
    finally:
        process.stop()


def free_ports(count: int) -> list[int]:
    """Ports of loopback that were free a moment ago."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in sockets]


def _write_config(serving: ServingConfig, folder: Path) -> Path:
    path = folder / "serving.json"
    log = str((folder / DECISIONS).resolve())
    path.write_text(json.dumps(asdict(replace(serving, decision_log=log)), indent=2))
    return path


def _wait_for(address: str, process: ChildProcess, log: Path) -> None:
    host, _, port = address.rpartition(":")
    end_s = time.monotonic() + READY_S
    while time.monotonic() < end_s and process.running:
        try:
            socket.create_connection((host, int(port)), 1.0).close()
            return
        except OSError:
            time.sleep(POLL_S)
    said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
    raise InputError(f"a program does not listen at {address} and said '{said[-1]}' ({log})")
