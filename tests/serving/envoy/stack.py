"""A real Envoy, a picker in a process of its own and replicas, for one test; and a client."""

import http.client
import json
import os
import random
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import envoy

from servegym.agents.serving.plugins.endpoint_picker.envoy_config import EnvoySetup, envoy_config

HERE = Path(__file__).parent
ENVOY = Path(envoy.__file__).parent / "_bin" / "envoy"
PICKER = "servegym.agents.serving.plugins.endpoint_picker"
LEAST_LOADED = {"policy": {"heuristic": "least_loaded"}, "deadline_s": None}


def free_port() -> int:
    """A port that nobody has, below those that the system gives to connections."""
    while True:
        with socket.socket() as each, suppress(OSError):
            each.bind(("127.0.0.1", random.randrange(10_000, 32_000)))
            return each.getsockname()[1]


def until(condition, what: str, within_s: float = 60.0):
    """What `condition` returns when it is true; fails where it does not become so."""
    end = time.monotonic() + within_s
    while True:
        try:
            if value := condition():
                return value
        except (OSError, http.client.HTTPException):
            pass
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        time.sleep(0.02)


class Answer:
    """What came back: status, headers, body, and the JSON of a body or of its events."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status, self.headers = answer.status, dict(answer.getheaders())
        self.body = answer.read()

    @property
    def said(self) -> dict:
        return json.loads(self.body)

    @property
    def events(self) -> list[dict]:
        lines = [line for line in self.body.split(b"\n") if line.startswith(b"data: {")]
        return [json.loads(line[6:]) for line in lines]

    @property
    def first(self) -> dict:
        return (self.events or [self.said])[0]

    @property
    def replica(self) -> str:
        return self.first["replica"]


def call(
    port: int, method: str, path: str, body: dict | bytes | None = None, headers=None, timeout_s=30.0
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, raw, headers or {})
        return Answer(connection.getresponse())
    finally:
        connection.close()


class Stack:
    """Replicas, a picker and an Envoy, all on loopback; `close` ends them.

    config: of the picker. options: its other arguments. setup: of EnvoySetup. change: called with Envoy's
    configuration before it is used.
    """

    def __init__(
        self, folder: Path, *, replicas=3, config=None, options=(), setup=None, change=None, with_picker=True
    ):
        self.folder = folder
        self.processes: dict[str, subprocess.Popen] = {}
        self.ports = [free_port() for _ in range(replicas)]
        self.names = [f"127.0.0.1:{port}" for port in self.ports]
        self.picker_port, self.port, self.admin_port = free_port(), free_port(), free_port()
        config = {"decision_log": str(folder / "decisions.jsonl"), **(config or LEAST_LOADED)}
        (folder / "serving.json").write_text(json.dumps(config))
        self.options = ["--report-period-s", "0.1", *options]
        self.setup = EnvoySetup(
            self.names,
            picker=f"127.0.0.1:{self.picker_port}",
            listen=f"127.0.0.1:{self.port}",
            admin=f"127.0.0.1:{self.admin_port}",
            **{"picker_timeout_s": 5.0, **(setup or {})},  # machines of tests are busy
        )
        made = envoy_config(self.setup)
        if change is not None:
            change(made)
        (folder / "envoy.json").write_text(json.dumps(made))
        try:
            for name in self.names:
                self.start_replica(name)
            if with_picker:
                self.start_picker()
            self.start_envoy()
            if with_picker:
                until(self.is_ready, "Envoy finds replicas and picker healthy")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Stack":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def start_replica(self, name: str) -> None:
        port = int(name.split(":")[1])
        self.start(name, sys.executable, str(HERE / "fake_replica.py"), str(port), name)
        until(lambda: call(port, "GET", "/health").status == 200, f"{name} answers")

    def start_picker(self) -> None:
        arguments = ["--config", str(self.folder / "serving.json"), "--replicas", ",".join(self.names)]
        arguments += ["--listen", f"127.0.0.1:{self.picker_port}", *self.options]
        self.start("picker", sys.executable, "-m", PICKER, *arguments)
        until(lambda: "serves at port" in self.log("picker"), "the picker serves")

    def start_envoy(self) -> None:
        options = [
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "-l",
            "warning",
            "--base-id",
            str(self.port),
        ]
        self.start("envoy", str(ENVOY), "-c", str(self.folder / "envoy.json"), *options)

    def is_ready(self) -> bool:
        assert self.processes["envoy"].poll() is None, self.log("envoy")
        stats = self.envoy_stats("membership_healthy")
        return stats.get("cluster.picker.membership_healthy") == 1 and stats.get(
            "cluster.replicas.membership_healthy"
        ) == len(self.names)

    def envoy_stats(self, pattern: str) -> dict[str, int]:
        text = call(self.admin_port, "GET", f"/stats?filter={pattern}&format=json").said
        return {each["name"]: each["value"] for each in text["stats"] if "name" in each and "value" in each}

    def start(self, name: str, *command: str) -> None:
        log = (self.folder / f"{name.replace(':', '_')}.log").open("ab")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.processes[name] = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        log.close()

    def log(self, name: str) -> str:
        return (self.folder / f"{name.replace(':', '_')}.log").read_text()

    def ask(self, body: dict | bytes, headers=None, **options) -> Answer:
        return call(self.port, "POST", "/v1/completions", body, headers, **options)

    def ask_all(self, bodies: list[dict], at_once: int = 16, headers=None) -> list[Answer]:
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda body: self.ask(body, headers), bodies))

    def log_lines(self) -> list[dict]:
        """The lines of the decision log, which is written a little later."""
        return [json.loads(line) for line in (self.folder / "decisions.jsonl").read_text().splitlines()]

    def decisions(self, at_least: int = 0) -> list[dict]:
        """Those of them that are decisions, when there are so many."""

        def found() -> list[dict]:
            return [line for line in self.log_lines() if "replica" in line]

        until(lambda: len(found()) >= at_least, f"{at_least} decisions in the log")
        return found()

    def stats(self, name: str) -> dict:
        return call(int(name.split(":")[1]), "GET", "/stats").said

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait()
