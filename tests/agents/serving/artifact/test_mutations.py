"""No artifact, however it is damaged, does more than being refused: no crash, no code, no memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from servegym.agents.zoo import ZOO
from tests.agents.serving.artifact.mutations import MUTATIONS

ROOT = Path(__file__).parents[4]


def outcomes(scratch: Path, first: int, count: int) -> dict[int, tuple[str, str]]:
    """Name and outcome by number of mutations that a process of their own has tried."""
    words = [str(ZOO / "router"), str(scratch), str(first), str(count)]
    command = [sys.executable, "-W", "ignore", "-m", "tests.agents.serving.artifact.mutations", *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.returncode == 0, f"after {lines[-1:]}: {result.returncode} {result.stderr[-2000:]}"
    return {number: (name, outcome) for number, name, outcome in lines}


def check(found: dict[int, tuple[str, str]], first: int, count: int) -> None:
    assert list(found) == list(range(first, first + count))
    for mutation in MUTATIONS:
        of_it = [outcome for name, outcome in found.values() if name == mutation.__name__]
        assert len(of_it) == count // len(MUTATIONS)
        assert any("refused" in outcome for outcome in of_it), mutation.__name__


def test_mutations_are_refused_or_harmless(tmp_path: Path) -> None:
    check(outcomes(tmp_path, 0, 110), 0, 110)


@pytest.mark.slow
def test_a_thousand_mutations_are_refused_or_harmless(tmp_path: Path) -> None:
    check(outcomes(tmp_path, 1000, 1100), 1000, 1100)
