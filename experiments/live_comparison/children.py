"""Our own programs as processes: the workers, and the runtime in the Python of another environment."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import servegym.agents
import servegym.costmodels
from servegym.costmodels.errors import InputError
from servegym.experiments.serving_routers.child_process import ChildProcess

READY_S = 300.0
"""How long a program may take until it is there; workers compile on their first start."""

POLL_S = 0.1


def package_folder(folder: Path) -> Path:
    """A folder for PYTHONPATH which has what the runtime needs of us and nothing else of this environment."""
    package = folder / "servegym"
    package.mkdir(parents=True, exist_ok=True)
    for part in (servegym.agents, servegym.costmodels):
        link = package / part.__name__.rpartition(".")[2]
        if not link.exists():
            link.symlink_to(Path(part.__path__[0]).resolve(), target_is_directory=True)
    return folder


def module_command(python: str, module: str, path: Path, arguments: Sequence[str]) -> list[str]:
    """Runs a module of ours in another environment, from the package at `path`."""
    return ["env", f"PYTHONPATH={path.resolve()}", python, "-m", module, *arguments]


def servegym_command(*words: str) -> list[str]:
    """A command of ours in this environment."""
    return [sys.executable, "-m", "servegym.experiments.cli", *words]


def first_answer(process: ChildProcess, log: Path) -> dict[str, object]:
    """The first line of JSON that a program writes. InputError where it ends before, or takes too long."""
    end_s = time.monotonic() + READY_S
    while time.monotonic() < end_s:
        for line in log.read_text(errors="replace").splitlines(keepends=True):
            if line.startswith("{") and line.endswith("\n"):
                answer: dict[str, object] = json.loads(line)
                return answer
        if not process.running:
            said = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
            raise InputError(f"a program ended at its start and said '{said[-1]}' ({log})")
        time.sleep(POLL_S)
    raise InputError(f"a program was not ready after {READY_S:g} s ({log})")
