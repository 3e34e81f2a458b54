"""The Python examples of the README run. (Its commands are run by tests/experiments.)"""

import re
import runpy
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_examples_are_found() -> None:
    assert len(EXAMPLES) == 6


@pytest.mark.compiled
@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example_runs(example: str, tmp_path: Path) -> None:
    """Each as a program of its own, in a file, since compiled functions are cached beside their source."""
    program = tmp_path / "example.py"
    program.write_text(example, encoding="utf-8")
    runpy.run_path(str(program))
