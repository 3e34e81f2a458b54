"""The browser of the tests: it shows local files, and tells on a page that does more."""

import asyncio
from pathlib import Path

import pytest

from tests.browser import Chromium


def _file(folder: Path, script: str) -> str:
    path = folder / "page.html"
    path.write_text(f"<!DOCTYPE html><title>Page</title><p id=here>written<script>{script}</script>")
    return path.as_uri()


def test_a_local_page_is_shown(browser_page, tmp_path):
    browser_page.goto(_file(tmp_path, "document.getElementById('here').textContent = 'scripted'"))
    assert browser_page.inner_text("#here") == "scripted"


@pytest.mark.parametrize(
    "script, fault",
    [
        ("fetch('https://example.com/x.js').catch(() => 0)", "request: https://example.com/x.js"),
        ("new WebSocket('wss://example.com/')", "socket: wss://example.com/"),
        ("console.error('oh dear')", "console: oh dear"),
        ("nosuch.function()", "nosuch is not defined"),
        ("Promise.reject(new Error('late'))", "late"),
    ],
)
def test_a_page_is_told_on(chromium: Chromium, tmp_path, script, fault):
    def visit() -> None:
        with chromium.page() as page:
            page.goto(_file(tmp_path, script))
            page.wait_for_timeout(100)

    with pytest.raises(AssertionError, match=fault):
        visit()


def test_other_tests_have_their_own_event_loops(chromium: Chromium):
    async def answer() -> int:
        return 42

    with chromium.page() as page:
        assert page.evaluate("6 * 7") == 42
    assert asyncio.run(answer()) == 42
