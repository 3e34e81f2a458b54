"""A page for Prometheus to scrape: GET /metrics on an address of this machine."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from servegym.costmodels.errors import InputError

LOOPBACK = "127.0.0.1"
MAX_HEAD_BYTES = 8192
MAX_CONNECTIONS = 16
TIMEOUT_S = 5.0
"""To ask, and to take the answer; who is slower is cut off."""

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MetricsServer:
    """Serves what `exposition` returns, in a thread of its own, until `close`.

    host: an address of this machine; others can reach it only if it is not a loopback one. port: 0 for any
    that is free. certificate, key: PEM files; with them it speaks TLS only. InputError where the address
    cannot be had or the files cannot be used.
    """

    def __init__(
        self,
        exposition: Callable[[], bytes],
        *,
        host: str = LOOPBACK,
        port: int = 0,
        certificate: Path | str | None = None,
        key: Path | str | None = None,
    ) -> None:
        self._exposition = exposition
        self._connections = 0
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._tls = None if certificate is None else _tls(certificate, key)
            self._socket = socket.create_server((host, port), family=family)
        except OSError as error:
            raise InputError(f"metrics on {host}:{port}: cannot be served: {error}") from error
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="servegym metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the server; a page that is being sent is cut off."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        timeout_s = None if self._tls is None else TIMEOUT_S
        server = await asyncio.start_server(
            self._serve,
            sock=self._socket,
            limit=MAX_HEAD_BYTES,
            ssl=self._tls,
            ssl_handshake_timeout=timeout_s,
            ssl_shutdown_timeout=timeout_s,
        )
        await self._stopped.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            if self._connections <= MAX_CONNECTIONS:
                async with asyncio.timeout(TIMEOUT_S):
                    await self._answer(reader, writer)
            writer.close()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()  # who asks no proper question, or does not take the answer
        finally:
            self._connections -= 1

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if path != b"/metrics":
            status, page = "404 Not Found", b"there is only /metrics\n"
        elif method not in (b"GET", b"HEAD"):
            status, page = "405 Method Not Allowed", b"GET only\n"
        else:
            status, page = "200 OK", self._exposition()
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: {_TYPE}\r\nContent-Length: {len(page)}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        if method != b"HEAD":
            writer.write(page)
        writer.transport.set_write_buffer_limits(0)  # so that draining is until all is taken
        await writer.drain()


def _tls(certificate: Path | str, key: Path | str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context
