"""Pages in a real browser, which may not use a network and must not complain."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page, Route

LOCAL = ("file:", "data:", "blob:", "about:")
"""Addresses that need no network."""

FLAGS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars")
"""What chromium needs to run as root in a container, and for pictures that are alike everywhere."""


class Chromium:
    """The system's chromium without a window, started once; a page of its own for every test."""

    def __init__(self, executable: str) -> None:
        from playwright.sync_api import sync_playwright

        self._playwright = sync_playwright().start()
        self._browser: Browser = self._playwright.chromium.launch(
            executable_path=executable, args=list(FLAGS)
        )
        # Playwright leaves its loop running in this thread, where other tests could start none.
        self._loop = asyncio.get_running_loop()
        asyncio._set_running_loop(None)

    @classmethod
    def installed(cls) -> str | None:
        """Path of the system's chromium; None where there is none."""
        return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

    @contextmanager
    def page(self) -> Iterator["Page"]:
        """An empty page of 1280 x 800. AssertionError at the end if it asked a network or had an error."""
        asyncio._set_running_loop(self._loop)
        context = self._browser.new_context(
            viewport={"width": 1280, "height": 800}, offline=True, service_workers="block"
        )
        try:
            faults = watch(context)
            yield context.new_page()
        finally:
            context.close()  # what is under way is heard of
            asyncio._set_running_loop(None)
        assert not faults, "\n".join(faults)

    def close(self) -> None:
        """Ends the browser."""
        asyncio._set_running_loop(self._loop)
        self._browser.close()
        self._playwright.stop()


def watch(context: "BrowserContext") -> list[str]:
    """Keeps the pages of `context` off the network; what they do wrong is added to the list returned."""
    faults: list[str] = []

    def serve(route: "Route") -> None:
        url = route.request.url
        if url.startswith(LOCAL):
            route.continue_()
        else:
            faults.append(f"request: {url}")
            route.abort()

    def console(message: Any) -> None:
        if message.type == "error":
            faults.append(f"console: {message.text}")

    def refuse_socket(socket: Any) -> None:
        faults.append(f"socket: {socket.url}")
        socket.close()

    context.route("**/*", serve)
    context.route_web_socket("**/*", refuse_socket)
    context.on("console", console)
    context.on("weberror", lambda error: faults.append(f"page: {error.error}"))
    return faults
