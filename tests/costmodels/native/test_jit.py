"""The cache of compiled code that processes share."""

import os
from pathlib import Path

import pytest

from servegym.costmodels.native.jit import CacheFiles


def test_processes_that_compile_at_once_keep_their_code_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one saves code for other arguments between the index and the code of the first."""
    process = [1]
    monkeypatch.setattr(os, "getpid", lambda: process[0])
    first, second, later = (CacheFiles(str(tmp_path), "function", "stamp") for _ in range(3))
    save_data = first._save_data
    monkeypatch.setattr(second, "_load_index", dict)  # read before the first wrote its own

    def second_goes_before(name: str, code: str) -> None:
        process[0] = 2
        second.save("int64", "for int64")
        save_data(name, code)

    monkeypatch.setattr(first, "_save_data", second_goes_before)
    first.save("float64", "for float64")
    assert later.load("int64") == "for int64"
    assert later.load("float64") is None  # the second's index replaced the first's: compiled once more
