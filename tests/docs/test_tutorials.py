"""The tutorials, and the examples of the other pages, do what they say."""

from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks_of, run_page

PAGES = [
    page
    for folder in ("tutorials", "problems", "reference")
    for page in sorted((ROOT / "docs" / folder).glob("*.md"))
    if any(block.language == "python" for block in blocks_of(page.read_text(encoding="utf-8")))
]
"""Those with examples. Pages at the top of docs/ are run by tests/test_readme.py, each example by itself."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: empty, and without real traces, so that what is printed is the same anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SERVEGYM_DATA", str(tmp_path / "no data"))
    return tmp_path


@pytest.mark.compiled
@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_page_runs(page: Path, folder: Path) -> None:
    run_page(page.read_text(encoding="utf-8"), folder)
