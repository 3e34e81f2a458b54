"""Indices of SMG's workers when it fails now and then; what stands for it names workers as SMG does."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from servegym.agents.serving.plugins.smg import ROUTED_HEADER, TARGET_HEADER, SmgPinning
from servegym.costmodels.errors import InputError

BREAKS_OFF = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nthe beginning"
NO_HTTP = b"something else\r\n\r\n"


class Gateway(ThreadingHTTPServer):
    """Sends to `workers` by the index that a header names; says `fault` instead, under paths of `faulty`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.workers = ["http://a", "http://b", "http://c"]
        self.fault: bytes | None = None
        self.faulty = "/"
        self.asked = 0


class _Handler(BaseHTTPRequestHandler):
    server: Gateway

    def do_GET(self) -> None:
        workers = [
            {"url": url, "is_healthy": True, "status": "ready", "model_id": "m", "models": []}
            for url in self.server.workers
        ]
        self._say(json.dumps({"workers": workers}).encode(), {})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._say(b"{}", {ROUTED_HEADER: self.server.workers[int(self.headers[TARGET_HEADER])]})

    def _say(self, content: bytes, headers: dict[str, str]) -> None:
        self.server.asked += 1
        if self.server.fault is not None and self.path.startswith(self.server.faulty):
            self.wfile.write(self.server.fault)
            return
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Tests say what they see themselves."""


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    """One that answers."""
    with Gateway() as served:
        threading.Thread(target=served.serve_forever, args=(0.01,), daemon=True).start()
        yield served
        served.shutdown()


def _wait_for(true: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + 10
    while not true():
        assert time.monotonic() < ends_s
        time.sleep(0.01)


@pytest.mark.parametrize("fault", [BREAKS_OFF, NO_HTTP, b"", b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000])
def test_the_watch_goes_on_whatever_smg_says(gateway: Gateway, fault: bytes) -> None:
    pinning = SmgPinning(gateway.url, "m")
    before = pinning.workers
    with pinning.watched(0.01):
        gateway.fault = fault
        asked = gateway.asked
        _wait_for(lambda: gateway.asked > asked + 3)
        assert pinning.workers == before == ("http://a", "http://b", "http://c")
        gateway.workers = gateway.workers[1:]
        gateway.fault = None
        _wait_for(lambda: pinning.workers == ("http://b", "http://c"))


def test_indices_are_asked_for_until_they_are_known(gateway: Gateway) -> None:
    pinning = SmgPinning(gateway.url, "m")
    gateway.workers.reverse()  # the same workers, in another order
    assert not pinning.refresh()
    assert pinning.landed("http://a", {ROUTED_HEADER: "http://c"}) == "http://c"
    gateway.fault, gateway.faulty = b"", "/v1/completions"
    for _ in range(2):
        with pytest.raises(InputError, match="/v1/completions: does not answer"):
            pinning.refresh()
        assert pinning.header("http://c") == {TARGET_HEADER: "2"}
    gateway.fault = None
    assert pinning.refresh()
    assert pinning.header("http://c") == {TARGET_HEADER: "0"}
    assert not pinning.refresh()
