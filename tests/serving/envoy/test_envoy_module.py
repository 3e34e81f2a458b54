"""A compiled router inside the real Envoy: every request answered, and decided as Python does on its rows."""

import collections
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import envoy._bin
import numpy as np
import pytest

from servegym.agents.serving.artifact.load import load_artifact
from servegym.agents.serving.artifact.schema import REPLICA_FEATURES, REQUEST_FEATURES, SETTING_FEATURES
from servegym.agents.serving.config import ServingConfig, serving_config
from servegym.agents.serving.plugins.envoy_module.build import build_envoy_module
from servegym.agents.serving.routing.learned_router import setting_row
from servegym.agents.zoo import policy_folder

ENVOY = Path(next(iter(envoy._bin.__path__))) / "envoy"
PREFIX = "type.googleapis.com/envoy.extensions."
AVAILABLE, RUNNING, WAITING, SPEED = (
    REPLICA_FEATURES.index(name) for name in ("available", "running", "waiting", "speed")
)

CONFIG = serving_config(
    {
        "policy": {"artifact": "zoo:router"},
        "setting": dict(
            zip(
                SETTING_FEATURES,
                (6.4e-3, 1.7e-5, 8.9e-6, 5.6e-8, 2048.0, 16.0, 200.0, 0.0, 1.0),
                strict=True,
            )
        ),
    }
)


class Worker(ThreadingHTTPServer):
    """Answers after a while with its own port; counts."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, delay_s: float, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.delay_s, self.answered = delay_s, 0
        self.connections: list[socket.socket] = []
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: clients go, and `stop` cuts them off."""

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Worker

    def do_GET(self) -> None:
        self.answer(b"healthy")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(self.server.delay_s)
        self.server.answered += 1
        self.answer(str(self.server.server_port).encode())

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Proxy(NamedTuple):
    port: int
    admin_port: int
    log: Path

    def stats(self) -> dict[str, str]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.admin_port)) as admin:
            admin.request("GET", "/stats?filter=servegym")
            lines = admin.getresponse().read().decode().splitlines()
        return dict(line.split(": ", 1) for line in lines if ": " in line)

    def count(self, name: str) -> int:
        return int(self.stats()[f"dynamicmodulescustom.servegym_{name}"])

    def post(self, **headers: str) -> tuple[int, bytes]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as client:
            client.request("POST", "/v1/completions", b"x" * 400, headers)
            answer = client.getresponse()
            return answer.status, answer.read()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def proxied(module: Path, workers: list[Worker], folder: Path, **metadata: list[float]) -> Iterator[Proxy]:
    """Envoy with the module before workers; metadata: numbers of each."""
    proxy = Proxy(free_port(), free_port(), folder / "decisions.bin")
    endpoints = []
    for i, worker in enumerate(workers):
        numbers = {name: values[i] for name, values in metadata.items()}
        endpoints.append(
            {
                "endpoint": {"address": address(worker.server_port)},
                "metadata": {"filter_metadata": {"servegym": numbers}},
            }
        )
    cluster = {
        "name": "replicas",
        "type": "STATIC",
        "connect_timeout": "1s",
        # By default three requests may be tried again at a time, and others fail.
        "circuit_breakers": {"thresholds": [{"max_retries": 1000}]},
        "load_balancing_policy": {
            "policies": [
                {
                    "typed_extension_config": {
                        "name": "envoy.load_balancing_policies.dynamic_modules",
                        "typed_config": {
                            "@type": f"{PREFIX}load_balancing_policies.dynamic_modules.v3."
                            "DynamicModulesLoadBalancerConfig",
                            "dynamic_module_config": {"name": "servegym"},
                            "lb_policy_name": "servegym",
                        },
                    }
                }
            ]
        },
        "health_checks": [
            {
                "timeout": "1s",
                "interval": "0.2s",
                "no_traffic_interval": "0.2s",
                "unhealthy_threshold": 1,
                "healthy_threshold": 1,
                "http_health_check": {"path": "/health"},
            }
        ],
        "load_assignment": {"cluster_name": "replicas", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    retry = {
        "retry_on": "connect-failure,refused-stream,reset,retriable-status-codes",
        "num_retries": 3,
        "host_selection_retry_max_attempts": 5,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {"@type": f"{PREFIX}retry.host.previous_hosts.v3.PreviousHostsPredicate"},
            }
        ],
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "replicas", "retry_policy": retry}}
    manager = {
        "@type": f"{PREFIX}filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{PREFIX}filters.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "name": "in",
        "address": address(proxy.port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    (folder / "envoy.json").write_text(
        json.dumps(
            {
                "admin": {"address": address(proxy.admin_port)},
                "stats_flush_interval": "0.5s",
                "static_resources": {"listeners": [listener], "clusters": [cluster]},
            }
        )
    )
    environment = {
        **os.environ,
        "ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(module.parent),
        "SERVEGYM_DECISION_LOG": str(proxy.log),
    }
    command = [
        ENVOY,
        "-c",
        folder / "envoy.json",
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "-l",
        "info",
    ]
    with (folder / "envoy.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stderr=log)
        try:
            wait_until(lambda: process.poll() is not None or proxy.post()[0] == 200, folder / "envoy.log")
            yield proxy
        finally:
            process.terminate()
            assert process.wait(20) == 0


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def wait_until(true: Any, log: Path, timeout_s: float = 20.0) -> None:
    ends_s = time.monotonic() + timeout_s
    while time.monotonic() < ends_s:
        with contextlib.suppress(OSError):
            if true():
                return
        time.sleep(0.05)
    pytest.fail(f"not within {timeout_s} s; Envoy says: {log.read_text()[-2000:]}")


@contextlib.contextmanager
def serving(*delays_s: float) -> Iterator[list[Worker]]:
    workers = [Worker(delay_s) for delay_s in delays_s]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def load(proxy: Proxy, count: int, clients: int) -> collections.Counter[tuple[int, bytes]]:
    """Requests of many lengths from clients that each wait for their answer; who answered what."""
    answers: collections.Counter[tuple[int, bytes]] = collections.Counter()
    rng = np.random.default_rng(0)
    prompts, outputs = rng.integers(1, 8000, count), rng.integers(1, 800, count)
    numbers, lock = iter(range(count)), threading.Lock()

    def client() -> None:
        for i in iter(lambda: next(numbers, None), None):
            headers = {"x-servegym-prompt-tokens": str(prompts[i])}
            if i % 3:
                headers["x-servegym-predicted-output-tokens"] = str(outputs[i])
            answer = proxy.post(**headers)
            with lock:
                answers[answer] += 1

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


class Decided(NamedTuple):
    request: np.ndarray
    replicas: np.ndarray
    chosen: int


def decisions(log: Path) -> list[Decided]:
    content, at, found = log.read_bytes(), 0, []
    while at < len(content):
        count, chosen = np.frombuffer(content, np.int32, 2, at)
        request = np.frombuffer(content, np.float32, len(REQUEST_FEATURES), at + 8)
        at += 8 + request.nbytes
        replicas = np.frombuffer(content, np.float32, count * len(REPLICA_FEATURES), at)
        at += replicas.nbytes
        found.append(Decided(request, replicas.reshape(count, -1), int(chosen)))
    return found


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_envoy_module(CONFIG, tmp_path_factory.mktemp("module"), log_decisions=True)


def test_decides_as_python_does_on_the_same_rows(module: Path, tmp_path: Path) -> None:
    policy = load_artifact(policy_folder("zoo:router"), backend="numpy")
    setting = setting_row(CONFIG.setting)
    with (
        serving(0.02, 0.02, 0.04) as workers,
        proxied(module, workers, tmp_path, speed=[1.0, 1.0, 0.5], kv_blocks=[20_000, 20_000, 5_000]) as proxy,
    ):
        assert "ABI version v0.2.0 matched" in (tmp_path / "envoy.log").read_text()
        seen = proxy.log.stat().st_size
        answers = load(proxy, 300, 12)
        assert proxy.count("fallbacks") == 0
    assert sum(count for (status, _), count in answers.items() if status == 200) == 300
    assert sum(worker.answered for worker in workers) >= 300
    with proxy.log.open("rb") as file:
        file.seek(seen)
        proxy.log.with_suffix(".part").write_bytes(file.read())
    decided = decisions(proxy.log.with_suffix(".part"))
    assert len(decided) == 300
    for request, replicas, chosen in decided:
        scores = policy.score_one({"request": request, "replicas": replicas, "setting": setting})
        allowed = 1e-5 * max(1.0, float(np.abs(scores).max()))
        assert scores[chosen] >= scores.max() - allowed
    sent = collections.Counter(each.chosen for each in decided)
    by_port = {str(worker.server_port).encode(): i for i, worker in enumerate(workers)}
    assert sent == {by_port[port]: count for (_, port), count in answers.items()}
    rows = np.stack([each.replicas for each in decided])
    np.testing.assert_array_equal(rows[..., SPEED], np.broadcast_to(np.float32([1, 1, 0.5]), rows.shape[:2]))
    assert (rows[..., AVAILABLE] == 1).all()
    under_way = (rows[..., RUNNING] + rows[..., WAITING]).sum(axis=1)
    assert under_way.max() == pytest.approx(11)
    assert rows[..., WAITING].any() and rows[..., RUNNING].any()
    assert {float(each.request[0]) for each in decided} > {float(decided[0].request[0])}


def test_a_replica_that_dies_gets_nothing_more_and_comes_back(module: Path, tmp_path: Path) -> None:
    with serving(0.01, 0.01, 0.01) as workers, proxied(module, workers, tmp_path) as proxy:
        workers[1].stop()
        assert {status for status, _ in load(proxy, 100, 8)} == {200}
        wait_until(lambda: decisions_after(proxy)[-1].replicas[1, AVAILABLE] == 0, tmp_path / "envoy.log")
        assert all(each.chosen != 1 for each in decisions_after(proxy, 100))
        workers[1] = Worker(0.01, workers[1].server_port)
        wait_until(lambda: decisions_after(proxy)[-1].replicas[1, AVAILABLE] == 1, tmp_path / "envoy.log")
        load(proxy, 100, 8)
        assert workers[1].answered > 0


def decisions_after(proxy: Proxy, count: int = 1) -> list[Decided]:
    """Of some requests that are sent now."""
    before = proxy.log.stat().st_size
    for _ in range(count):
        assert proxy.post()[0] == 200
    part = proxy.log.with_suffix(".part")
    part.write_bytes(proxy.log.read_bytes()[before:])
    return decisions(part)


def test_clients_may_write_what_they_like_into_headers(module: Path, tmp_path: Path) -> None:
    with serving(0.0, 0.0) as workers, proxied(module, workers, tmp_path) as proxy:
        proxy.log.unlink()
        hostile = ["nan", "inf", "-1", "1e99", "0x", "12 13", "", "9" * 5000, "1" * 23, "%s%n"]
        for value in hostile:
            names = ("x-servegym-prompt-tokens", "x-servegym-predicted-output-tokens", "x-servegym-priority")
            assert proxy.post(**dict.fromkeys(names, value))[0] == 200
        assert proxy.post(**{"x-servegym-prompt-tokens": "123", "x-servegym-priority": "-1"})[0] == 200
        assert proxy.count("fallbacks") == 0


def test_a_policy_for_another_fleet_leaves_it_to_the_fewest_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from servegym.agents.serving.plugins.envoy_module import build

    source = build.router_source

    def for_five(*arguments: Any) -> str:
        return source(*arguments).replace("#define NUM_REPLICAS 0", "#define NUM_REPLICAS 5")

    monkeypatch.setattr(build, "router_source", for_five)
    other = build_envoy_module(CONFIG, tmp_path / "module", log_decisions=True)
    with serving(0.02, 0.02, 0.02) as workers, proxied(other, workers, tmp_path) as proxy:
        assert {status for status, _ in load(proxy, 90, 6)} == {200}
        assert proxy.count("fallbacks") == proxy.count("decisions") >= 90
    assert min(worker.answered for worker in workers) >= 25


def test_how_long_it_takes(tmp_path: Path) -> None:
    """Not held to a limit; said in the report."""
    plain = build_envoy_module(CONFIG, tmp_path / "module")
    with serving(*[0.005] * 16) as workers, proxied(plain, workers, tmp_path) as proxy:
        load(proxy, 500, 8)
        time.sleep(1.2)
        histogram = proxy.stats()["dynamicmodulescustom.servegym_decision_ns"]
    quantiles = dict(re.findall(r"(P\d+)\([^,]*,([\d.]+)\)", histogram))
    print({name: round(float(quantiles[name])) for name in ("P50", "P99", "P100")}, "ns among 16")
    assert set(quantiles) >= {"P50", "P99", "P100"}


def test_what_cannot_be_built(tmp_path: Path) -> None:
    from servegym.agents.serving.plugins.envoy_module.build import main
    from servegym.costmodels.errors import InputError

    with pytest.raises(InputError, match="artifact"):
        build_envoy_module(serving_config({"policy": {"heuristic": "least_loaded"}}), tmp_path)
    with pytest.raises(InputError, match="setting"):
        build_envoy_module(ServingConfig(CONFIG.policy), tmp_path)
    scheduler = serving_config({"policy": {"artifact": "zoo:scheduler"}, "setting": CONFIG.setting})
    with pytest.raises(InputError, match="compiled"):
        build_envoy_module(scheduler, tmp_path)
    for name, value in (("shadow", True), ("share", 0.1), ("metrics", True)):
        with pytest.raises(InputError, match=f"{name} = {value}: the module inside Envoy knows none"):
            build_envoy_module(replace(CONFIG, **{name: value}), tmp_path)
    assert list(tmp_path.iterdir()) == []
    config = tmp_path / "serving.json"
    config.write_text(json.dumps({"policy": {"artifact": "zoo:router"}, "setting": CONFIG.setting}))
    assert main([str(config), str(tmp_path / "built")]) == 0
    assert [path.name for path in (tmp_path / "built").iterdir()] == ["libservegym.so"]
    assert main([str(tmp_path / "none.json"), str(tmp_path)]) == 1
    assert main([]) == 2
