"""vLLM's log of the random cases, made once, by a Python that has vLLM."""

import json
import os
import subprocess
from pathlib import Path
from typing import NamedTuple, TypedDict

import pytest

from tests.witness.cases import Case, make_cases

NUM_CASES = 200
SEED = 0


class Step(TypedDict):
    """One iteration as `vllm_scheduler.py` writes it."""

    scheduled: list[tuple[int, int, int]]  # request, tokens, computed before; in order
    preempted: list[int]
    admitted: list[tuple[int, int]]  # request, tokens found in the prefix cache
    used_blocks: int  # while it runs
    finished: list[int]
    free_blocks: int  # after it


class Witnessed(NamedTuple):
    """A case and what vLLM did with it."""

    case: Case
    steps: list[Step]


@pytest.fixture(scope="session")
def witnessed(tmp_path_factory: pytest.TempPathFactory) -> list[Witnessed]:
    """All cases, stepped by the Python in SERVEGYM_VLLM_PYTHON (requirements.txt); skipped without it."""
    python = os.environ.get("SERVEGYM_VLLM_PYTHON")
    if not python:
        pytest.skip("SERVEGYM_VLLM_PYTHON names no Python that has vLLM (tests/witness/requirements.txt)")
    folder = tmp_path_factory.mktemp("witness")
    cases = make_cases(NUM_CASES, SEED)
    (folder / "cases.json").write_text(json.dumps(cases))
    program = Path(__file__).with_name("vllm_scheduler.py")
    run = subprocess.run(
        [python, program, folder / "cases.json", folder / "log.json"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    logs = json.loads((folder / "log.json").read_text())
    return [Witnessed(case, log["steps"]) for case, log in zip(cases, logs, strict=True)]
