"""The command itself: usage, names, `--json`, Hydra's flags, how it ends."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from servegym.agents.batch_schedulers import BATCH_SCHEDULERS
from servegym.agents.elastic_systems import SYSTEMS
from servegym.agents.heuristics import ROUTERS
from servegym.envs.scenario import Scenario, load_scenario
from servegym.experiments import simulate
from servegym.experiments.cli import COMMANDS, main
from servegym.experiments.json_answer import to_json
from tests.experiments.commands import SHORT_BENCH, SMALL_SCENARIO, answer_of, error_of
from tests.terminal import run as run_on_terminal


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_usage_shows_an_example_of_every_command(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(words) == 0
    usage = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert command.example.split()[0] == name
        assert f"servegym {command.example}\n" in usage


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("servegym 0.")


def test_misspelt_command_is_told_the_nearest(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert "did you mean evaluate?" in error_of(capsys, "evalute")
    assert "simulate" in error_of(capsys, "xyz")


AGENTS = ("attention", "choice_scorer", "gnn", "gpu_scorer", "mlp", "queue", "scheduler")


def test_list_shows_names_that_work(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    names = answer_of(capsys, "list")
    assert set(names["routers"]) == set(ROUTERS)
    assert names["routers"]["power_of_two"] == {"d": 2}
    assert set(names["batch schedulers"]) == set(BATCH_SCHEDULERS)
    assert set(names["elastic systems"]) == set(SYSTEMS)
    assert "resnet50_8gpu" in names["scenarios of batch serving"]
    assert set(names["agents"]) >= {"discrete_sac", "double_dqn"} | {f"ppo_{name}" for name in AGENTS}
    assert "servegym/Routing-v0" in names["environments"]
    for kind in ("gpus", "models", "workloads", "fleets", "engines", "cost models", "objectives"):
        assert names[kind]
    for scenario in names["scenarios of LLM fleets"]:
        if scenario != "mooncake_conv_8xh100":  # needs its trace
            assert load_scenario(scenario).name == scenario


def test_list_for_people_shows_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "power_of_two (d=2)" in capsys.readouterr().out
    assert main(["list", "routers"]) == 2


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "list"])
def test_help_of_a_command_is_hydras(capsys: pytest.CaptureFixture[str], folder: Path, command: str) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"servegym {command}" in shown
    assert "Configuration groups" in shown
    assert list(folder.iterdir()) == []


def test_configuration_is_shown_without_running(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert main(["simulate", *SMALL_SCENARIO, "router=power_of_two", "--cfg", "job"]) == 0
    shown = capsys.readouterr().out
    assert "  d: 2\n" in shown
    assert "replicas: 2\n" in shown
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "line, expected",
    [
        ("servegym ", set(COMMANDS)),
        ("servegym ev", {"evaluate"}),
        ("servegym simulate router=power", {"router=power_of_two"}),
        (
            "servegym train agent=ppo_",
            {f"agent=ppo_{name}" for name in AGENTS},
        ),
        ("servegym simulate scenario=sharegpt_8a800 policy=v", {"policy=vllm"}),
        ("servegym goodput scenario=resnet50_8gpu policy=s", {"policy=shepherd", "policy=symphony"}),
    ],
)
def test_completion(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str, expected: set[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    assert main(["-sc", "query=bash"]) == 0
    assert set(capsys.readouterr().out.split()) == expected


def test_hydra_writes_nothing_of_its_own(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    answer_of(capsys, "simulate", *SMALL_SCENARIO, "out=here")
    assert {path.name for path in folder.iterdir()} == {"here"}


def test_interrupt_ends_with_130(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Scenario, "simulate", interrupted)
    assert main(["simulate", *SMALL_SCENARIO]) == 130
    assert capsys.readouterr().err == "servegym: interrupted\n"


def test_a_bug_is_not_dressed_as_bad_input(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(Scenario, "simulate", broken)
    with pytest.raises(KeyError, match="a bug"):
        main(["simulate", *SMALL_SCENARIO])


def test_json_has_null_for_what_is_not_finite() -> None:
    assert json.loads(to_json({"a": [float("nan"), float("inf"), 1.5], "b": None})) == {
        "a": [None, None, 1.5],
        "b": None,
    }


def test_notes_of_a_command_go_to_standard_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    wanted = simulate.summarise

    def talkative(*results: Any) -> dict[str, float]:
        print("chatter")
        return wanted(*results)

    monkeypatch.setattr(simulate, "summarise", talkative)
    answer_of(capsys, "simulate", *SMALL_SCENARIO)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "list"])
def test_every_command_answers_in_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path, name: str
) -> None:
    def answer(config: object) -> dict[str, Any]:
        print("chatter")
        return {"command": name, "rate_rps": float("inf")}

    monkeypatch.setattr(importlib.import_module(f"servegym.experiments.{name}"), name, answer)
    assert answer_of(capsys, name) == {"command": name, "rate_rps": None}


@pytest.mark.compiled
def test_progress_is_seen_on_a_terminal_and_json_alone_on_standard_output(folder: Path) -> None:
    words = ["pairs", *SMALL_SCENARIO, "routers=[jsq,random]", "seeds=2", "--json"]
    out, seen = run_on_terminal(
        "from servegym.costmodels import progress\n"
        "from servegym.experiments.cli import main\n"
        "progress.APPEARS_AFTER_S = 0.0\n"
        f"raise SystemExit(main({words!r}))"
    )
    assert out.count("\n") == 1
    assert list(json.loads(out)["scenarios"]) == ["generated_8xh100"]
    assert re.search(r"All pairs .* 1/1 scenarios, [\d.]+ scenarios/\w+, 0:00:\d\d, ETA 0:00:00", seen)


@pytest.mark.compiled
def test_from_a_shell(folder: Path) -> None:
    """The one test of a process of its own: exit codes and streams are real ones."""
    command = [sys.executable, "-m", "servegym.experiments.cli", "bench"]
    done = subprocess.run([*command, "env", *SHORT_BENCH, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["decisions_per_s"]["servegym/Routing-v0"] > 0
    done = subprocess.run([*command, "nothing"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    benches = "simulator, env, stream, peers, policies, batch, elastic, training"
    assert done.stderr == f"servegym: error: bench nothing: must be one of {benches}\n"
