"""Commands whose result is one answer keep it, with how it came about, in a folder if asked to."""

import json
import shlex
from pathlib import Path

import pytest

from servegym.experiments.cli import main
from tests.experiments.commands import answer_of, error_of

SEARCH = (
    "goodput",
    "scenario=resnet50_8gpu",
    "scenario.fleet.num_gpus=2",
    "policy=symphony",
    "seeds=1",
    "requests=100",
    "tolerance=0.1",
)


def test_the_command_kept_gives_the_answer_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = answer_of(capsys, *SEARCH, "out=kept")
    assert {path.name for path in (folder / "kept").iterdir()} == {
        "goodput.json",
        "command.txt",
        "provenance.json",
        "config.yaml",
    }
    assert json.loads((folder / "kept/goodput.json").read_text()) == answer
    assert json.loads((folder / "kept/provenance.json").read_text())["versions"]["servegym"]
    (command,) = (folder / "kept/command.txt").read_text().splitlines()
    program, *words = shlex.split(command)
    assert program == "servegym" and main(words) == 0
    assert json.loads((folder / "kept/goodput.json").read_text()) == answer


def test_nothing_is_kept_unasked_and_nothing_else_replaced(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer_of(capsys, *SEARCH)
    assert list(folder.iterdir()) == []
    (folder / "mine").mkdir()
    (folder / "mine/notes.txt").write_text("of mine")
    assert "out = mine: exists and holds something else" in error_of(capsys, *SEARCH, "out=mine")


def test_a_validation_is_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = answer_of(capsys, "validate", "peers", "clock=roofline", "out=kept")
    assert json.loads((folder / "kept/validation.json").read_text()) == answer
    assert (
        folder / "kept/command.txt"
    ).read_text() == "servegym validate what=peers clock=roofline out=kept\n"
    (folder / "file").write_text("")
    assert "out = file: must be a folder" in error_of(
        capsys, "validate", "peers", "clock=roofline", "out=file"
    )
