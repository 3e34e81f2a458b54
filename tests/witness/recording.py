"""What vLLM did with the random cases: recorded and committed, or stepped now by a Python that has vLLM.

`recorded.json.gz` holds what `vllm_scheduler.py` wrote for `make_cases(40, 0)` under the vLLM that it names,
in the environment of `tests/serving/vllm`. Made by

    python -m tests.witness.recording PYTHON_WITH_VLLM 40
"""

import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from tests.witness.cases import Case, make_cases

SEED = 0
RECORDED = Path(__file__).with_name("recorded.json.gz")


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


def step_through(python: str, cases: list[Case], folder: Path) -> list[dict[str, Any]]:
    """The logs of the cases, by `vllm_scheduler.py` under that Python; files go to `folder`."""
    (folder / "cases.json").write_text(json.dumps(cases))
    program = Path(__file__).with_name("vllm_scheduler.py")
    run = subprocess.run(
        [python, program, folder / "cases.json", folder / "log.json"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return list(json.loads((folder / "log.json").read_text()))


def pack(logs: list[dict[str, Any]]) -> dict[str, Any]:
    """Logs in few bytes: rows instead of named values, idle iterations as none; the cases are made again."""
    return {
        "vllm": logs[0]["vllm"],
        "seed": SEED,
        "steps": [
            [list(step.values()) if step["scheduled"] else step["free_blocks"] for step in log["steps"]]
            for log in logs
        ],
    }


def recorded() -> list[Witnessed]:
    """The committed recording."""
    packed = json.loads(gzip.decompress(RECORDED.read_bytes()))
    cases = make_cases(len(packed["steps"]), packed["seed"])
    return [
        Witnessed(case, [_unpacked(row) for row in rows])
        for case, rows in zip(cases, packed["steps"], strict=True)
    ]


def _unpacked(row: Any) -> Step:
    if isinstance(row, int):
        row = [[], [], [], 0, [], row]
    return dict(zip(Step.__annotations__, row, strict=True))  # type: ignore[return-value]


def record(python: str, count: int) -> None:
    """Writes the committed recording anew: of the first `count` cases, by a Python that has vLLM."""
    with tempfile.TemporaryDirectory() as folder:
        logs = step_through(python, make_cases(count, SEED), Path(folder))
    text = json.dumps(pack(logs), separators=(",", ":"))
    RECORDED.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


if __name__ == "__main__":
    record(sys.argv[1], int(sys.argv[2]))
