"""The Python examples of README and docs run. (Their commands are run by tests/experiments.)"""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def examples_of(document: Path) -> list[str]:
    """The text of each block of Python."""
    return re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)


EXAMPLES = {
    f"{document.stem}-{number}": example
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for number, example in enumerate(examples_of(document))
}


def test_the_examples_are_found() -> None:
    assert len(examples_of(ROOT / "README.md")) == 6
    assert "batch_serving-0" in EXAMPLES


@pytest.mark.compiled
@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_example_runs(example: str, tmp_path: Path) -> None:
    """Each as a program of its own, in a file, since compiled functions are cached beside their source."""
    program = tmp_path / "example.py"
    program.write_text(example, encoding="utf-8")
    runpy.run_path(str(program))
