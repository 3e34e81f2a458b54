"""The site builds without a warning, its pages ask no network for anything, search works from a folder."""

import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT

PAGES = (
    "index.html",
    "problems/deferred_batching.html",
    "tutorials/own_router.html",
    "reference/environments.html",
    "project/contributing.html",
)
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture
def browser() -> Iterator[Any]:
    """Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def test_pages_ask_no_network_and_search_finds(site: Path, browser: Any) -> None:
    page = browser.new_page()
    page.set_default_timeout(120_000)  # of a busy machine
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    for name in PAGES:
        page.goto((site / name).as_uri())
        assert page.locator("h1").first.is_visible()
    page.keyboard.press("f")
    page.keyboard.type("loongserve")
    page.locator(".md-search-result__link").first.wait_for()
    assert not errors
    assert asked and not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]


def test_every_policy_and_every_file_from_outside_has_a_page(site: Path) -> None:
    policies = {path.stem for path in (ROOT / "docs/policies").glob("*.md")} - {"README"}
    assert {path.stem for path in (site / "policies").glob("*.html")} == policies | {"index"}
    assert "Keep a Changelog" in (site / "project/changelog.html").read_text()
    assert (site / "project/CITATION.cff").read_text() == (ROOT / "CITATION.cff").read_text()


def test_links_lead_to_pages_or_show_the_path() -> None:
    with_links = runpy.run_path(str(ROOT / "docs/theme/hooks.py"))["with_links_of_the_site"]
    assert with_links("[a](simulator.md#x)", "results.md") == "[a](simulator.md#x)"
    assert with_links("[a](../CONTRIBUTING.md)", "results.md") == "[a](project/contributing.md)"
    assert with_links("[a](docs/simulator.md#x)", "project/contributing.md") == "[a](../simulator.md#x)"
    assert with_links("[the rule](../agents/policy.py)", "zoo.md") == "the rule (`agents/policy.py`)"
    assert with_links("[`agents/policy.py`](../agents/policy.py)", "zoo.md") == "`agents/policy.py`"
    for as_it_is in ("[a](missing.md)", "[a](https://x.org/y)", "[a](#b)", "![a](autoscaling.png)"):
        assert with_links(as_it_is, "results.md") == as_it_is


DOCSTRING = """What it is, over
two lines.

Observation: a Dict:
    queue   requests that wait
    gap_s   seconds
Reward: minus seconds,
    and no more

name: of somebody, which
is long. rank: another.
size: at least 1

>>> 1 + 1
2"""


def test_docstrings_become_markdown() -> None:
    as_markdown = runpy.run_path(str(ROOT / "docs/theme/docstrings.py"))["as_markdown"]
    paragraphs = as_markdown(DOCSTRING).split("\n\n")
    assert paragraphs[0] == "What it is, over\ntwo lines."
    assert paragraphs[1:3] == [
        "Observation\n:   a Dict:",
        "    ```text\n    queue   requests that wait\n    gap_s   seconds\n    ```",
    ]
    assert paragraphs[3] == "Reward\n:   minus seconds,\n    and no more"
    assert paragraphs[4].splitlines()[::2] == ["- **name**: of somebody, which", "- **size**: at least 1"]
    assert paragraphs[5] == "```pycon\n>>> 1 + 1\n2\n```"
