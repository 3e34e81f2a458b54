"""Commands run in an empty folder, without the real traces."""

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: empty, and with no data folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SERVEGYM_DATA", str(tmp_path / "no data"))
    return tmp_path
