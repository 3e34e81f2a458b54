"""vLLM's log of the random cases, made once, by a Python that has vLLM."""

import os

import pytest

from tests.witness.cases import make_cases
from tests.witness.recording import SEED, Witnessed, step_through

NUM_CASES = 200


@pytest.fixture(scope="session")
def witnessed(tmp_path_factory: pytest.TempPathFactory) -> list[Witnessed]:
    """All cases, stepped by the Python in SERVEGYM_VLLM_PYTHON; skipped without it."""
    python = os.environ.get("SERVEGYM_VLLM_PYTHON")
    if not python:
        pytest.skip("SERVEGYM_VLLM_PYTHON names no Python that has vLLM (make test-witness)")
    cases = make_cases(NUM_CASES, SEED)
    logs = step_through(python, cases, tmp_path_factory.mktemp("witness"))
    return [Witnessed(case, log["steps"]) for case, log in zip(cases, logs, strict=True)]
