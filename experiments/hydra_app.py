"""Runs one command under Hydra, and turns its answer into JSON or into text for a person.

Command NAME is the file NAME.py beside this one, which holds the function NAME (takes the composed
configuration, returns a JSON object), its schema NAMEConfig, and `show`, which prints such an object for a
person. A command that goes on after its answer, a server, is a generator that yields it. The configuration is
conf/NAME.yaml. With scenarios of another kind it may be another file, as OF_KIND says.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from servegym.costmodels.errors import InputError
from servegym.envs.batch_scenario.config import BatchScenarioConfig
from servegym.envs.elastic_scenario.config import ElasticScenarioConfig
from servegym.envs.scenario.compose import CONFIG_MODULE, list_group, register_scenario_schema, scenario_kind
from servegym.envs.scenario.config import ScenarioConfig
from servegym.experiments.config_errors import explain
from servegym.experiments.json_answer import to_json
from servegym.experiments.studies.command import Command
from servegym.experiments.studies.sweep import is_sweep, run_sweep
from servegym.experiments.studies.sweep import show as show_sweep

SUBJECTS = {
    "bench": "what",
    "data": "what",
    "policy": "what",
    "replay": "run",
    "runs": "what",
    "validate": "what",
}
"""Commands that name what they are about in a word of its own, and its key."""

LISTS = {"report": "runs", "runs": "runs"}
"""Commands whose further words of their own are folders, and the key of these."""

FLAGS_WITH_A_WORD = ("--cfg", "-c", "--info", "-i", "--package", "-p")
"""Of Hydra: the word behind them is theirs."""

OF_KIND: dict[tuple[str, type], str] = {
    ("simulate", BatchScenarioConfig): "simulate_batches",
    ("simulate", ElasticScenarioConfig): "simulate_elastic",
    ("goodput", ElasticScenarioConfig): "goodput_elastic",
}
"""Files of commands that do something else with a scenario of this kind."""

POLICY_GROUPS = {
    "goodput": ("batch_scheduler", False),
    "simulate_batches": ("batch_scheduler", True),
    "simulate_elastic": ("elastic_system", True),
    "goodput_elastic": ("elastic_system", True),
}
"""Commands whose `policy` may be a file of a group, and whether it has to be one."""


def run_hydra_command(name: str, words: list[str], as_json: bool) -> int:
    """Runs command `name` with Hydra's overrides and flags; returns the exit code.

    Bad input is said in one line on standard error. Any other exception of the command passes through.
    """
    name = OF_KIND.get((name, _kind(words)), name)
    words = _as_overrides(name, words)
    command = Command(name)
    register_scenario_schema()
    ConfigStore.instance().store(name=f"{name}_schema", node=command.schema)
    try:
        if is_sweep(words):
            return _sweep(command, words, as_json)
        return _run_once(command, words, as_json)
    except (HydraException, OmegaConfBaseException) as error:
        return _refuse(explain(error))
    except InputError as error:
        return _refuse(str(error))
    except SystemExit as stop:  # Hydra's flags end so, with 0 unless they are misspelt
        return stop.code if isinstance(stop.code, int) else 2


def _run_once(command: Command, words: list[str], as_json: bool) -> int:
    failure: list[Exception] = []

    # Hydra prints what a job raises in its own way, so the job raises nothing.
    def job(config: DictConfig) -> None:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                answer = command.run(config)
                goes_on = answer if isinstance(answer, Iterator) else None
                if goes_on is not None:
                    answer = next(goes_on)
        except Exception as error:
            failure.append(error)
            return
        if as_json:
            print(to_json(answer), flush=True)
        else:
            command.module.show(answer)
        if goes_on is not None:
            next(goes_on, None)

    _call_hydra(command.name, words, job)
    if failure:
        raise failure[0]
    return 0


def _sweep(command: Command, words: list[str], as_json: bool) -> int:
    """0 if all runs finished, else 1; what was refused was refused before any of them began."""
    if other := next((word for word in words if word in ("--cfg", "-c", "--info", "--resolve")), None):
        raise InputError(f"{other}: is for one run; leave out -m")
    with contextlib.redirect_stdout(sys.stderr):
        answer = run_sweep(command, words, _call_hydra)
    if as_json:
        print(to_json(answer))
    else:
        show_sweep(command, answer)
    return 0 if answer["finished"] == len(answer["runs"]) else 1


def _kind(words: list[str]) -> type:
    """The schema of the scenario chosen, the first of several; that of LLM fleets where none is known."""
    chosen = [word.partition("=")[2].split(",")[0] for word in words if word.startswith("scenario=")]
    known = chosen and chosen[-1] in list_group("scenario")
    return scenario_kind(chosen[-1])[0] if known else ScenarioConfig


def _as_overrides(name: str, words: list[str]) -> list[str]:
    """Words in Hydra's form: `bench env` is `what=env`, `report A B` has `runs=[A,B]`."""
    if name in SUBJECTS and words and _is_bare(words[0]):
        words = [f"{SUBJECTS[name]}={words[0]}", *words[1:]]
    if name in LISTS and (bare := _bare_words(words)):
        folders = ",".join("'" + word.replace("'", "\\'") + "'" for word in bare)
        words = [*(word for word in words if word not in bare), f"{LISTS[name]}=[{folders}]"]
    if name == "replay" and "--perfetto" in words[:-1]:
        at = words.index("--perfetto")
        words = [*words[:at], f"perfetto={words[at + 1]}", *words[at + 2 :]]
    if name in POLICY_GROUPS:
        words = [_as_choice(word, *POLICY_GROUPS[name]) for word in words]
    return words


def _is_bare(word: str) -> bool:
    """Whether it is neither a key with a value nor a flag."""
    return "=" not in word and word[:1] not in ("-", "+", "~")


def _bare_words(words: list[str]) -> list[str]:
    """Those that are bare, and no word of a flag, as in `--cfg job`."""
    pairs = zip(["", *words], words, strict=False)
    return [word for before, word in pairs if _is_bare(word) and before not in FLAGS_WITH_A_WORD]


def policies_for(name: str, words: list[str]) -> list[str]:
    """What `policy` may be in command `name` on the scenario among its words, as far as a group has them."""
    command = OF_KIND.get((name, _kind(words)), name)
    return list_group(POLICY_GROUPS[command][0]) if command in POLICY_GROUPS else []


def _as_choice(word: str, group: str, always: bool) -> str:
    """`policy=symphony` chooses that file of its group, so that `policy.condition=eager` can change it."""
    key, _, choice = word.partition("=")
    known = list_group(group)
    is_one = always or all(name in known for name in choice.split(","))
    return f"{group}@{word}" if key == "policy" and is_one else word


def _call_hydra(name: str, words: list[str], job: Any) -> None:
    """`hydra.main` as if it had been started as a program of its own; its exceptions reach us."""
    arguments, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["servegym", *words]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        hydra.main(config_path=f"pkg://{CONFIG_MODULE}", config_name=name, version_base="1.3")(job)()
    finally:
        sys.argv = arguments
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error


def _refuse(message: str) -> int:
    print(f"servegym: error: {' '.join(message.split())}", file=sys.stderr)
    return 2
