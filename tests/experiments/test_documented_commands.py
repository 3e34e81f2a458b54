"""Every `servegym` command in README, docs, Makefile and the usage is run, made smaller where it is long."""

import os
import re
import shlex
from pathlib import Path

import pytest

from servegym.agents.serving.artifact.schema import SETTING_FEATURES
from servegym.agents.serving.routing.fleet_view import FleetView
from servegym.agents.serving.routing.least_loaded import LeastLoaded
from servegym.agents.serving.routing.requests import RoutedRequest
from servegym.agents.serving.routing.router import Router
from servegym.agents.serving.telemetry.decision_log import DecisionLog
from servegym.envs.batch_scenario.config import BatchScenarioConfig
from servegym.envs.dynamic_batching.config import DynamicBatchingConfig
from servegym.envs.elastic_scenario.config import ElasticScenarioConfig
from servegym.envs.scenario.compose import scenario_kind
from servegym.envs.scenario.config import ScenarioConfig
from servegym.experiments.cli import COMMANDS, main
from tests.experiments.commands import FEW_LONG_REQUESTS, FEW_REQUESTS, SHORT_BENCH, SHORT_TRAINING

ROOT = Path(__file__).resolve().parents[2]
SHARED_DATA = Path(os.environ.get("SERVEGYM_DATA") or ROOT.parent / "shared/data")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")), ROOT / "Makefile"]

SMALL_PROFILE = (
    "device=cpu",
    "tensor_parallel=[8]",
    "operators=[decode_attention,normalisation,decode_layer]",
    "grid.tokens=[1]",
    "grid.sequences=[1,2,4]",
    "grid.decode_history=[63]",
    "timing={warmups:0,repeats:1,calls:1}",
)

REDUCTIONS: dict[str | tuple[str, type], tuple[str, ...]] = {
    "train": SHORT_TRAINING,
    "bench": (*SHORT_BENCH, *FEW_REQUESTS),
    "study": ("episodes=2", "episode_requests=100"),
    "emulate": ("port=0", "for_s=0.1"),
    "evaluate": ("seeds=3",),
    "load": ("target=null", "requests=20", "time_scale=0.1"),
    "goodput": ("seeds=1", "requests=300", "scenario.workload.test_s=400"),
    ("goodput", ElasticScenarioConfig): ("seeds=1", "requests=40"),
    "place": (
        "seeds=1",
        "gpus=2",
        "tensor_parallel=[1]",
        "scenario.workload.test_s=400",
    ),  # fewer are no load
    "tune": ("episodes=1",),
    "solve": ("episodes=2", "requests=500"),
    "predictor": ("scenario.workload.test_s=200", "epochs=1"),  # 20 s of generated requests are too few
    "profile": SMALL_PROFILE,
    "calibrate": ("model=batch",),  # a CPU has no roofline
    "validate": ("device=a100_sxm", "software=vllm", "folds=2"),
}
"""What is added to a documented command, or to one on a scenario of a kind."""

FEWER_REQUESTS: dict[type | None, tuple[str, ...]] = {
    ScenarioConfig: FEW_REQUESTS,
    BatchScenarioConfig: FEW_REQUESTS,
    ElasticScenarioConfig: FEW_LONG_REQUESTS,
    DynamicBatchingConfig: ("scenario.requests=64",),
}
"""What is added to a command on a scenario of a kind."""

RUNS_NOTHING = {"--help", "--cfg", "--info", "--hydra-help", "resume=true"}
"""Words of commands to which nothing can be added."""


def commands_in(text: str) -> list[list[str]]:
    """The words after `servegym` of all commands in fenced blocks of Markdown, in order."""
    blocks = re.findall(r"^( *)```\w*\n(.*?)^\1```", text, flags=re.MULTILINE | re.DOTALL)
    return commands_of("\n".join(block for _, block in blocks))


def commands_of(script: str) -> list[list[str]]:
    """The words after `servegym` of all commands of a script, in order."""
    lines = script.replace("\\\n", " ").splitlines()
    matches = (re.match(r"\s*(?:\$ |\$\(BIN\)/)?servegym(?: (.*))?$", line) for line in lines)
    return [shlex.split(match[1] or "", comments=True) for match in matches if match]


def reduced(words: list[str]) -> list[str]:
    """The same command on less."""
    if not words or words[0] not in COMMANDS or RUNS_NOTHING & set(words):
        return words
    if words[0] == "live":  # needs environments of real routers: its configuration is only composed
        return ["live", *(word for word in words if "=" in word and "$(" not in word), "--cfg", "job"]
    if "suite=claims" in words:
        return [*words, "claims=[intelligent_router]"]  # the cheapest, and without data
    if any(word.startswith("suite=") for word in words):
        return [*words, "--cfg", "job"]  # a whole suite takes minutes: its configuration is only composed
    scenario = next((word.partition("=")[2] for word in words if word.startswith("scenario=")), None)
    schema = None if scenario is None else scenario_kind(scenario)[0]
    smaller = REDUCTIONS.get((words[0], schema or ScenarioConfig), REDUCTIONS.get(words[0], ()))
    if any(word.startswith("agent.imitate_log=") for word in words):
        smaller = (*smaller, "agent.imitate_steps=64")
    trials = ("hydra.sweeper.n_trials=2",) if "sweeper=optuna" in words else ()
    return [*words, *FEWER_REQUESTS.get(schema, ()), *smaller, *trials]


def documented(path: Path) -> list[list[str]]:
    return (commands_in if path.suffix == ".md" else commands_of)(path.read_text())


def run_all(commands: list[list[str]]) -> None:
    """In order and in one folder: later commands use what earlier ones wrote.

    Measurements to validate against are not part of the project: without them such commands are left out.
    """
    for words in commands:
        if words[:1] == ["validate"] and not (SHARED_DATA / "kernels").is_dir():
            continue
        for name in re.findall(r"=(\S+\.csv)", " ".join(words)):
            rows = [f"{second},{200 + second},20" for second in range(60)]
            Path(name).write_text("\n".join(["arrived_at,num_prefill_tokens,num_decode_tokens", *rows]))
        for name in re.findall(r"=(\S+\.jsonl)", " ".join(words)):
            log_decisions(Path(name))
        assert main(reduced(words)) == 0, " ".join(words)


def log_decisions(path: Path) -> None:
    """What a router logs in a minute."""
    now_s = 0.0
    log = DecisionLog(path, setting=dict.fromkeys(SETTING_FEATURES, 1.0), clock=lambda: now_s)
    router = Router(LeastLoaded(), FleetView("abcd"), observers=[log], clock=lambda: now_s, deadline_s=None)
    for i in range(180):
        now_s = i / 3
        router.route(RoutedRequest(str(i), 200.0 + i))
        router.tokens(str(i), 20)
        router.ended(str(i))
    log.close()


@pytest.fixture(autouse=True)
def shared_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests run in a folder of their own, from which the data beside the checkout cannot be seen."""
    if SHARED_DATA.is_dir():
        monkeypatch.setenv("SERVEGYM_DATA", str(SHARED_DATA))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
@pytest.mark.compiled
def test_documented(folder: Path, document: Path) -> None:
    run_all(documented(document))


@pytest.mark.compiled
def test_examples_of_the_usage(folder: Path) -> None:
    run_all([shlex.split(command.example) for command in COMMANDS.values()])
    assert (folder / "runs/demo/evaluation/report.html").is_file()
    assert (folder / "runs/demo/export/policy.onnx").is_file()


def test_demo_and_bench_are_found_in_the_makefile() -> None:
    found = documented(ROOT / "Makefile")
    assert [words[0] for words in found] == ["train", "evaluate", "export", "live"] + 8 * ["bench"]


def test_commands_are_found_in_markdown() -> None:
    text = """
Type `servegym list`.
```bash
# a comment
servegym simulate scenario=a \\
    router=jsq  # the shortest queue
cd elsewhere
$ servegym
```
1. Then
   ```
   servegym evaluate 'policies=[jsq, random]'
   ```
servegym not a command
"""
    assert commands_in(text) == [
        ["simulate", "scenario=a", "router=jsq"],
        [],
        ["evaluate", "policies=[jsq, random]"],
    ]
