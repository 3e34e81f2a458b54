"""From a training run to a policy of the zoo, and to its evaluation by name."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

import servegym.agents.zoo as zoo
from servegym.costmodels.errors import InputError
from servegym.envs.scenario import Scenario
from servegym.experiments import export
from servegym.experiments.cli import main
from servegym.experiments.evaluation.contenders import _check_disjoint
from tests.experiments.commands import SMALL_SCENARIO, SMALL_TRAINING, answer_of, error_of


@pytest.fixture
def empty_zoo(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (zoo, export):
        monkeypatch.setattr(module, "ZOO", folder / "zoo")
    return folder / "zoo"


def test_from_a_run_to_the_zoo(capsys: pytest.CaptureFixture[str], empty_zoo: Path) -> None:
    assert main(["train", *SMALL_TRAINING, "run_dir=run"]) == 0
    answer = answer_of(capsys, "export", "run_dir=run", "zoo=toy")
    assert (answer["name"], answer["out"]) == ("zoo:toy", str(empty_zoo / "toy"))
    assert zoo.zoo_policies() == ["toy"] and answer_of(capsys, "list")["zoo"] == ["zoo:toy"]
    provenance = json.loads((empty_zoo / "toy/policy.json").read_text())["provenance"]
    assert provenance["command"].startswith("servegym train ") and "run_dir" not in provenance["command"]
    assert provenance["processor_s"] > 0 and provenance["suite"] is None
    card = (empty_zoo / "toy/card.md").read_text()
    assert "servegym evaluate policy=zoo:toy" in card and "Not evaluated yet." in card
    found = answer_of(capsys, "evaluate", *SMALL_SCENARIO, "policy=zoo:toy", "seeds=2")
    assert {"zoo:toy", "jsq", "round_robin"} <= set(found["policies"])
    same = answer_of(capsys, "evaluate", *SMALL_SCENARIO, "policies=[jsq,zoo:toy,run]", "seeds=2", "out=both")
    assert same["policies"]["zoo:toy"] == same["policies"]["run"] == found["policies"]["zoo:toy"]


def test_names_of_the_zoo_are_plain(capsys: pytest.CaptureFixture[str], empty_zoo: Path) -> None:
    assert "small letters" in error_of(capsys, "export", "run_dir=run", "zoo=../toy")
    assert "out" in error_of(capsys, "export", "run_dir=run", "zoo=toy", "out=here")
    assert "zoo:toy: must be one of none yet" in error_of(capsys, "evaluate", "policy=zoo:toy")


def test_runs_on_a_suite_are_not_tested_on_what_they_saw() -> None:
    kept = {"trace": "a.csv", "test_s": 600.0}
    seen = SimpleNamespace(traffic=SimpleNamespace(held_out=kept))
    _check_disjoint("run", {"held_out": [{"trace": "b.csv", "test_s": 60.0}, kept]}, cast(Scenario, seen))
    with pytest.raises(InputError, match="must be at most 300"):
        _check_disjoint("run", {"held_out": [kept, kept | {"test_s": 300.0}]}, cast(Scenario, seen))
