"""Pages that other programs ask for again and again, such as metrics: GET on an address of this machine."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from servegym.costmodels.errors import InputError

LOOPBACK = "127.0.0.1"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
"""The type of a page of metrics."""

MAX_HEAD_BYTES = 8192
MAX_CONNECTIONS = 128
"""At once; asyncio takes up to 100 in one go, as come together where the process was busy."""

TIMEOUT_S = 5.0
"""To ask, and to take the answer; who is slower is cut off."""


class Page(NamedTuple):
    """Its content is made anew each time."""

    content_type: str
    content: Callable[[], bytes]


class PageServer:
    """Serves pages, by their paths, in a thread of its own, until `close`.

    host: an address of this machine; others can reach it only if it is not a loopback one. port: 0 for any
    that is free. certificate, key: PEM files; with them it speaks TLS only. client_ca: PEM file of who signs
    the certificates that clients must have; None: anybody may ask. InputError where the address cannot be had
    or the files cannot be used.
    """

    def __init__(
        self,
        pages: Mapping[str, Page],
        *,
        host: str = LOOPBACK,
        port: int = 0,
        certificate: Path | str | None = None,
        key: Path | str | None = None,
        client_ca: Path | str | None = None,
    ) -> None:
        self._pages = dict(pages)
        self._connections = 0
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        where = f"{', '.join(pages)} on {host}:{port}"
        if certificate is None and client_ca is not None:
            raise InputError(f"{where}: client_ca = {client_ca}: must have a certificate")
        try:
            self._tls = None if certificate is None else _tls(certificate, key, client_ca)
            self._socket = socket.create_server((host, port), family=family)
        except (OSError, OverflowError) as error:  # the latter for a port that cannot be
            raise InputError(f"{where}: cannot be served: {error}") from error
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="servegym pages", daemon=True)
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
        page = self._pages.get(path.decode("latin-1"))
        kind = "text/plain"
        if page is None:
            status, content = "404 Not Found", f"there is only {', '.join(self._pages)}\n".encode()
        elif method not in (b"GET", b"HEAD"):
            status, content = "405 Method Not Allowed", b"GET only\n"
        else:
            status, kind, content = "200 OK", page.content_type, page.content()
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(content)}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        if method != b"HEAD":
            writer.write(content)
        writer.transport.set_write_buffer_limits(0)  # so that draining is until all is taken
        await writer.drain()


def _tls(certificate: Path | str, key: Path | str | None, client_ca: Path | str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=client_ca)
    context.load_cert_chain(certificate, key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
