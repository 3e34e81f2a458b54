"""The page that Prometheus scrapes: where it is, to whom it answers, for how long it waits."""

import asyncio
import contextlib
import http.client
import socket
import ssl
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from servegym.agents.serving.telemetry import metrics_server
from servegym.agents.serving.telemetry.metrics_server import MAX_CONNECTIONS, MAX_HEAD_BYTES, MetricsServer
from servegym.costmodels.errors import InputError

PAGE = b"servegym_router_decisions_total 7\n"


@pytest.fixture
def server() -> Generator[MetricsServer, None, None]:
    """One that serves PAGE."""
    served = MetricsServer(lambda: PAGE)
    yield served
    served.close()


def _asked(port: int, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


def test_it_answers_what_it_has_and_nothing_else(server: MetricsServer) -> None:
    assert _asked(server.port, "GET", "/metrics") == (200, PAGE)
    assert _asked(server.port, "GET", "/metrics?name[]=a") == (200, PAGE)
    assert _asked(server.port, "HEAD", "/metrics") == (200, b"")
    assert _asked(server.port, "GET", "/../etc/passwd")[0] == 404
    assert _asked(server.port, "POST", "/metrics")[0] == 405


def test_it_is_on_loopback_only(server: MetricsServer) -> None:
    with open("/proc/net/tcp") as file:
        listening = [line.split()[1] for line in file if line.split()[3] == "0A"]
    assert f"0100007F:{server.port:04X}" in listening
    assert f"00000000:{server.port:04X}" not in listening


def test_it_can_be_made_where_an_event_loop_runs_and_ends_when_told() -> None:
    async def make() -> int:
        made = MetricsServer(lambda: PAGE)
        answer = await asyncio.to_thread(_asked, made.port, "GET", "/metrics")
        made.close()
        made.close()
        assert answer == (200, PAGE)
        return made.port

    port = asyncio.run(make())
    with pytest.raises(ConnectionRefusedError):
        _asked(port, "GET", "/metrics")


def test_it_speaks_tls_only_when_it_has_a_certificate(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -addext"
    words = [*command.split(), "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(words, check=True, capture_output=True)
    served = MetricsServer(lambda: PAGE, certificate=certificate, key=key)
    context = ssl.create_default_context(cafile=certificate)
    connection = http.client.HTTPSConnection("127.0.0.1", served.port, timeout=10, context=context)
    connection.request("GET", "/metrics")
    assert connection.getresponse().read() == PAGE
    connection.close()
    with pytest.raises((http.client.HTTPException, OSError)):
        _asked(served.port, "GET", "/metrics")
    served.close()
    with pytest.raises(InputError, match="cannot be served"):
        MetricsServer(lambda: PAGE, certificate=tmp_path / "none.pem", key=key)


def test_a_port_in_use_is_refused(server: MetricsServer) -> None:
    with pytest.raises(InputError, match=f"metrics on 127.0.0.1:{server.port}: cannot be served"):
        MetricsServer(lambda: PAGE, port=server.port)


def test_long_heads_and_slow_clients_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "TIMEOUT_S", 0.2)
    served = MetricsServer(lambda: b"x" * 30_000_000)
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as silent:
        silent.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert silent.recv(1) == b""
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as long:
        with contextlib.suppress(ConnectionError):
            for _ in range(20):
                long.sendall(b"x" * MAX_HEAD_BYTES)
        with contextlib.suppress(ConnectionError):
            assert long.recv(1) == b""
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as lazy:
        lazy.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        time.sleep(1.0)  # what it finds when it begins to read had been sent by then
        received = 0
        with contextlib.suppress(ConnectionError):
            while piece := lazy.recv(1 << 20):
                received += len(piece)
        assert received < 30_000_000
    served.close()


def test_more_connections_than_allowed_are_closed(server: MetricsServer) -> None:
    waiting = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(MAX_CONNECTIONS)]
    for each in waiting:
        each.sendall(b"GET")
    time.sleep(0.2)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as refused:
        assert refused.recv(1) == b""
    for each in waiting:
        each.close()
    time.sleep(0.2)
    assert _asked(server.port, "GET", "/metrics") == (200, PAGE)
