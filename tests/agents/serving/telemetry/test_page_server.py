"""Pages that others ask for: where they are, to whom a server answers, for how long it waits."""

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

from servegym.agents.serving.telemetry import page_server
from servegym.agents.serving.telemetry.page_server import (
    MAX_CONNECTIONS,
    MAX_HEAD_BYTES,
    PROMETHEUS,
    Page,
    PageServer,
)
from servegym.costmodels.errors import InputError

PAGE = b"servegym_router_decisions_total 7\n"
PAGES = {"/metrics": Page(PROMETHEUS, lambda: PAGE)}


@pytest.fixture
def server() -> Generator[PageServer, None, None]:
    """One that serves PAGES."""
    served = PageServer(PAGES)
    yield served
    served.close()


def _asked(port: int, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


def _asked_by_tls(port: int, ca: Path, own: tuple[Path, Path] | None = None) -> bytes:
    """The page, by a client that has a certificate and key of its own or none."""
    context = ssl.create_default_context(cafile=ca)
    if own is not None:
        context.load_cert_chain(*own)
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read()
    finally:
        connection.close()


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Of this machine, signed by itself; and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN={name} -addext"
    words = [*command.split(), "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(words, check=True, capture_output=True)
    return certificate, key


def test_it_answers_what_it_has_and_nothing_else(server: PageServer) -> None:
    assert _asked(server.port, "GET", "/metrics") == (200, PAGE)
    assert _asked(server.port, "GET", "/metrics?name[]=a") == (200, PAGE)
    assert _asked(server.port, "HEAD", "/metrics") == (200, b"")
    assert _asked(server.port, "GET", "/../etc/passwd")[0] == 404
    assert _asked(server.port, "POST", "/metrics")[0] == 405


def test_each_page_has_its_path_and_its_type() -> None:
    served = PageServer({**PAGES, "/load": Page("application/json", lambda: b"{}")})
    for path, kind, content in (("/metrics", PROMETHEUS, PAGE), ("/load", "application/json", b"{}")):
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
        connection.request("GET", path)
        response = connection.getresponse()
        assert (response.getheader("Content-Type"), response.read()) == (kind, content)
        connection.close()
    assert _asked(served.port, "GET", "/") == (404, b"there is only /metrics, /load\n")
    served.close()


def test_it_is_on_loopback_only(server: PageServer) -> None:
    with open("/proc/net/tcp") as file:
        listening = [line.split()[1] for line in file if line.split()[3] == "0A"]
    assert f"0100007F:{server.port:04X}" in listening
    assert f"00000000:{server.port:04X}" not in listening


def test_it_can_be_made_where_an_event_loop_runs_and_ends_when_told() -> None:
    async def make() -> int:
        made = PageServer(PAGES)
        answer = await asyncio.to_thread(_asked, made.port, "GET", "/metrics")
        made.close()
        made.close()
        assert answer == (200, PAGE)
        return made.port

    port = asyncio.run(make())
    with pytest.raises(ConnectionRefusedError):
        _asked(port, "GET", "/metrics")


def test_it_speaks_tls_only_when_it_has_a_certificate(tmp_path: Path) -> None:
    certificate, key = _certificate(tmp_path, "server")
    served = PageServer(PAGES, certificate=certificate, key=key)
    assert _asked_by_tls(served.port, certificate) == PAGE
    with pytest.raises((http.client.HTTPException, OSError)):
        _asked(served.port, "GET", "/metrics")
    served.close()
    with pytest.raises(InputError, match="cannot be served"):
        PageServer(PAGES, certificate=tmp_path / "none.pem", key=key)
    with pytest.raises(InputError, match="client_ca = .*: must have a certificate"):
        PageServer(PAGES, client_ca=certificate)


def test_who_has_no_certificate_is_told_nothing_where_one_is_asked_for(tmp_path: Path) -> None:
    files, stranger = _certificate(tmp_path, "ours"), _certificate(tmp_path, "stranger")
    certificate, key = files
    served = PageServer(PAGES, certificate=certificate, key=key, client_ca=certificate)
    for own in (None, stranger):
        with pytest.raises((http.client.HTTPException, OSError)):
            _asked_by_tls(served.port, certificate, own)
    assert _asked_by_tls(served.port, certificate, files) == PAGE
    served.close()
    with pytest.raises(InputError, match="cannot be served"):
        PageServer(PAGES, certificate=certificate, key=key, client_ca=tmp_path / "none.pem")


def test_a_port_that_cannot_be_had_is_refused(server: PageServer) -> None:
    for port in (server.port, 70_000):
        with pytest.raises(InputError, match=f"/metrics on 127.0.0.1:{port}: cannot be served"):
            PageServer(PAGES, port=port)


def test_long_heads_and_slow_clients_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_server, "TIMEOUT_S", 0.2)
    served = PageServer({"/metrics": Page(PROMETHEUS, lambda: b"x" * 30_000_000)})
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


def test_slow_clients_hold_nobody_up_and_too_many_are_closed(server: PageServer) -> None:
    def dawdling() -> socket.socket:
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(b"GET")
        return client

    waiting = [dawdling() for _ in range(MAX_CONNECTIONS - 1)]
    assert _asked(server.port, "GET", "/metrics") == (200, PAGE)
    waiting.append(dawdling())
    time.sleep(0.2)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as refused:
        assert refused.recv(1) == b""
    for each in waiting:
        each.close()
    time.sleep(0.2)
    assert _asked(server.port, "GET", "/metrics") == (200, PAGE)
