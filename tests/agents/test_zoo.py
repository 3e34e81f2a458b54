"""Every policy of the zoo can be loaded and trusted, and its card says what is in it."""

from pathlib import Path

import pytest

from servegym.agents.serving.artifact.card import card
from servegym.agents.serving.artifact.load import check_golden, load_artifact
from servegym.agents.serving.artifact.schema import FILES
from servegym.agents.zoo import PREFIX, ZOO, policy_folder, zoo_policies
from servegym.costmodels.errors import InputError
from servegym.experiments.cli import main
from tests.experiments.test_documented_commands import commands_in

MOST_BYTES = 500_000

policies = pytest.mark.parametrize("name", zoo_policies())


@policies
def test_it_decides_as_it_did(name: str) -> None:
    folder = policy_folder(PREFIX + name)
    assert check_golden(load_artifact(folder), folder) < 1e-3


@policies
def test_it_is_small_and_complete(name: str) -> None:
    files = list(policy_folder(PREFIX + name).iterdir())
    assert {path.name for path in files} == set(FILES)
    assert sum(path.stat().st_size for path in files) < MOST_BYTES


@policies
def test_its_card_is_what_its_description_says(name: str) -> None:
    folder = policy_folder(PREFIX + name)
    description = load_artifact(folder).description
    assert (folder / "card.md").read_text() == card(PREFIX + name, description)
    assert description["provenance"]["evaluation"] is not None
    assert not description["provenance"]["git_dirty"]


@policies
def test_the_commands_of_its_card_can_be_read(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    commands = commands_in((policy_folder(PREFIX + name) / "card.md").read_text())
    assert len(commands) >= 2
    for words in commands:
        assert main([*words, "--cfg", "job"]) == 0
        assert f"zoo:{name}" in capsys.readouterr().out


def test_names_are_folders_of_the_zoo_or_paths() -> None:
    assert policy_folder("runs/demo") == Path("runs/demo")
    with pytest.raises(InputError, match=r"^zoo:nobody: must be one of "):
        policy_folder("zoo:nobody")
    with pytest.raises(InputError):
        policy_folder("zoo:../serving")
    assert all(policy_folder(PREFIX + name) == ZOO / name for name in zoo_policies())
